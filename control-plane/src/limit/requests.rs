//! Requests, by account, worker, address and site.

use super::{Limit, Network, Rate, remember};
use orion_domain::{Timestamp, UserId};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// Purpose of a request without an account: each purpose is counted apart, so that none of them shuts out
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Whatever else.
    Other,
    /// Health and metrics, as monitoring asks for them.
    Checks,
    /// Attempt to log in.
    LogIn,
    /// Attempt to sign up.
    SignUp,
    /// A worker's registration or link, before its token is known to be good.
    Worker,
}

impl Purpose {
    /// Returns the purpose of a request to a route.
    pub fn of(path: &str) -> Self {
        match path {
            "/api/health" | "/metrics" => Self::Checks,
            "/auth/login" | "/api/login" => Self::LogIn,
            "/auth/signup" | "/api/signup" => Self::SignUp,
            "/api/workers/register" | "/api/workers/link" => Self::Worker,
            _ => Self::Other,
        }
    }
}

/// Sender of a request.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// An account, by a good token.
    User(UserId),
    /// A worker, by the token that it came with.
    Worker(&'a str),
    /// Client that is neither an account nor a worker.
    Anyone,
}

/// Limits of requests: by the account that a good token names, by a worker's good token, else by the address.
#[derive(Debug)]
pub struct RequestLimiter {
    users: Limit,
    workers: Limit,
    customers: Limit,
    sites: Limit,
    /// Hashes of the workers' tokens that were good, and when they last were.
    good_tokens: Mutex<HashMap<u64, Timestamp>>,
    hasher: RandomState,
}

impl RequestLimiter {
    /// Creates limits of so many requests a minute for each account, for each worker, for each purpose of
    /// each customer's address, and of four times that for each site.
    pub fn new(of_user: u32, of_worker: u32, of_address: u32) -> Self {
        Self {
            users: Limit::new(Rate::a_minute(of_user)),
            workers: Limit::new(Rate::a_minute(of_worker)),
            customers: Limit::new(Rate::a_minute(of_address)),
            sites: Limit::new(Rate::a_minute(of_address.saturating_mul(4))),
            good_tokens: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    fn is_good(&self, token: &str) -> bool {
        let good = self.good_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        good.contains_key(&self.hasher.hash_one(token))
    }

    /// Takes a request.
    ///
    /// # Errors
    /// After how many seconds the next one is taken.
    pub fn take(
        &self,
        asker: Asker<'_>,
        purpose: Purpose,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<(), u64> {
        match asker {
            Asker::User(user) => {
                self.users.look(&user.0, now)?;
                self.users.count(&user.0, now);
            }
            Asker::Worker(token) if self.is_good(token) => {
                self.workers.look(&token, now)?;
                self.workers.count(&token, now);
            }
            Asker::Worker(_) | Asker::Anyone => {
                let (customer, site) = (Network::customer(address), Network::site(address));
                self.customers.look(&(purpose, customer), now)?;
                self.sites.look(&(purpose, site), now)?;
                self.customers.count(&(purpose, customer), now);
                self.sites.count(&(purpose, site), now);
            }
        }
        Ok(())
    }

    /// The token that a worker came with was good: its address is not charged for the request, and, if the token is
    /// one machine's own, for none that follows.
    pub fn worker_was_known(&self, token: &str, is_own: bool, address: IpAddr, now: Timestamp) {
        if !self.is_good(token) {
            self.customers.reclaim(&(Purpose::Worker, Network::customer(address)), now);
            self.sites.reclaim(&(Purpose::Worker, Network::site(address)), now);
        }
        if is_own {
            let mut good = self.good_tokens.lock().unwrap_or_else(PoisonError::into_inner);
            remember(&mut good, self.hasher.hash_one(token), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn requests_are_counted_by_account_where_there_is_one() {
        let limiter = RequestLimiter::new(10, 5, 3);
        let take = |asker| limiter.take(asker, Purpose::Other, HOME, at(0));
        for _ in 0..3 {
            assert_eq!(take(Asker::Anyone), Ok(()));
        }
        assert!(take(Asker::Anyone).is_err());
        for _ in 0..10 {
            assert_eq!(take(Asker::User(UserId(7))), Ok(()));
        }
        assert!(take(Asker::User(UserId(7))).is_err());
        assert_eq!(take(Asker::User(UserId(8))), Ok(()));
        let unlimited = RequestLimiter::new(0, 0, 0);
        assert!((0..10_000).all(|_| unlimited.take(Asker::Anyone, Purpose::Other, HOME, at(0)).is_ok()));
    }

    #[test]
    fn each_purpose_has_a_limit_of_its_own() {
        let limiter = RequestLimiter::new(10, 5, 3);
        for path in
            ["/docs", "/metrics", "/api/health", "/auth/login", "/api/signup", "/api/workers/register"]
        {
            let purpose = Purpose::of(path);
            let taken = (0..10).filter(|_| limiter.take(Asker::Anyone, purpose, HOME, at(0)).is_ok());
            assert_eq!(taken.count(), if path == "/api/health" { 0 } else { 3 }, "{path}");
        }
    }

    /// A room of workers behind one address.
    #[test]
    fn workers_with_good_tokens_are_not_charged_to_their_address() {
        let limiter = RequestLimiter::new(10, 5, 3);
        let take = |token: &str| limiter.take(Asker::Worker(token), Purpose::Worker, HOME, at(0));
        for n in 0..100 {
            let token = format!("node {n}");
            assert_eq!(take(&token), Ok(()), "{n}");
            limiter.worker_was_known(&token, true, HOME, at(0));
            assert_eq!(take("joins"), Ok(()), "{n}");
            limiter.worker_was_known("joins", false, HOME, at(0));
        }
        // Guesses are, and use up nothing of those who are known.
        for n in 0..3 {
            assert_eq!(take(&format!("guess {n}")), Ok(()));
        }
        assert!(take("guess 3").is_err());
        let taken = (0..10).filter(|_| take("node 7").is_ok());
        assert_eq!(taken.count(), 5, "a worker has a limit of its own");
        assert_eq!(take("node 8"), Ok(()));
    }
}

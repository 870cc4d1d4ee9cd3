//! The login limiter: so many failures within a window, counted by account and by address.

use orion_domain::Timestamp;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How far back failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures of one account from one address.
const PER_ACCOUNT_AND_ADDRESS: usize = 5;
/// Failures from one address over all accounts.
const PER_ADDRESS: usize = 30;
/// Failures of one account over all addresses: higher, so that a stranger does not lock its owner out easily.
const PER_ACCOUNT: usize = 60;
/// Most keys remembered; the oldest are forgotten first.
const KEYS_MAX: usize = 50_000;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Both(String, IpAddr),
    Address(IpAddr),
    Account(String),
}

/// Remembers failed logins.
#[derive(Default)]
pub struct LoginLimiter {
    failures: Mutex<HashMap<Key, VecDeque<Timestamp>>>,
}

impl LoginLimiter {
    /// Whether a try is allowed now.
    ///
    /// # Errors
    /// After how many seconds the next one is.
    pub fn check(&self, account: &str, address: IpAddr, now: Timestamp) -> Result<(), u64> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, most) in keys(account, address) {
            let recent: Vec<Timestamp> = failures
                .get(&key)
                .map(|at| at.iter().copied().filter(|at| now.since(*at) < WINDOW).collect())
                .unwrap_or_default();
            if recent.len() >= most {
                let oldest = recent[recent.len() - most];
                return Err((WINDOW.saturating_sub(now.since(oldest))).as_secs() + 1);
            }
        }
        Ok(())
    }

    /// A try failed.
    pub fn failed(&self, account: &str, address: IpAddr, now: Timestamp) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() > KEYS_MAX {
            failures.retain(|_, at| at.back().is_some_and(|last| now.since(*last) < WINDOW));
        }
        if failures.len() > KEYS_MAX {
            failures.clear();
        }
        for (key, most) in keys(account, address) {
            let at = failures.entry(key).or_default();
            at.push_back(now);
            while at.len() > most {
                at.pop_front();
            }
        }
    }

    /// A try succeeded: the account's failures from that address are forgotten.
    pub fn succeeded(&self, account: &str, address: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&Key::Both(account.into(), address));
    }
}

fn keys(account: &str, address: IpAddr) -> [(Key, usize); 3] {
    [
        (Key::Both(account.into(), address), PER_ACCOUNT_AND_ADDRESS),
        (Key::Address(address), PER_ADDRESS),
        (Key::Account(account.into()), PER_ACCOUNT),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn the_sixth_failure_within_a_minute_is_not_even_tried() {
        let limiter = LoginLimiter::default();
        let home = IpAddr::from([10, 0, 0, 1]);
        for second in 0..5 {
            assert_eq!(limiter.check("alice", home, at(second)), Ok(()));
            limiter.failed("alice", home, at(second));
        }
        assert_eq!(limiter.check("alice", home, at(5)), Err(56));
        assert_eq!(limiter.check("bob", home, at(5)), Ok(()), "another account is not touched");
        assert_eq!(limiter.check("alice", IpAddr::from([10, 0, 0, 2]), at(5)), Ok(()), "nor another address");
        assert_eq!(limiter.check("alice", home, at(61)), Ok(()));
    }

    #[test]
    fn an_address_that_tries_many_accounts_is_stopped() {
        let limiter = LoginLimiter::default();
        let home = IpAddr::from([10, 0, 0, 1]);
        for n in 0..PER_ADDRESS {
            limiter.failed(&format!("user{n}"), home, at(0));
        }
        assert!(limiter.check("fresh", home, at(1)).is_err());
    }
}

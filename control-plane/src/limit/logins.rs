//! Failed logins, by account, address and site.

use super::{Limit, Network, Rate, remember};
use orion_domain::Timestamp;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// Failures of one account from one customer's address, a minute; also of those who are known to it.
const PER_ACCOUNT_AND_ADDRESS: Rate = Rate::a_minute(5);
/// Failures from one customer's address over all accounts, a minute.
const PER_ADDRESS: Rate = Rate::a_minute(30);
/// Failures from one site over all accounts, a minute.
const PER_SITE: Rate = Rate::a_minute(120);
/// Failures of one account by all strangers, a minute.
const PER_ACCOUNT: Rate = Rate::a_minute(60);

/// Account and origin of an attempt to log in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The account; none for what is no name of an account at all.
    pub account: Option<&'a str>,
    /// Address that the attempt comes from.
    pub address: IpAddr,
    /// Whether a token of the account came with it, even one that has ended.
    pub has_token: bool,
}

/// Remembers tries to log in that have not succeeded, and from where they did.
#[derive(Debug)]
pub struct LoginLimiter {
    both: Limit,
    of_known: Limit,
    addresses: Limit,
    sites: Limit,
    accounts: Limit,
    known: Mutex<HashMap<(String, Network), Timestamp>>,
}

impl Default for LoginLimiter {
    fn default() -> Self {
        Self {
            both: Limit::new(PER_ACCOUNT_AND_ADDRESS),
            of_known: Limit::new(PER_ACCOUNT_AND_ADDRESS),
            addresses: Limit::new(PER_ADDRESS),
            sites: Limit::new(PER_SITE),
            accounts: Limit::new(PER_ACCOUNT),
            known: Mutex::default(),
        }
    }
}

impl LoginLimiter {
    /// Whether the account knows who tries: then strangers are not in the way.
    pub fn is_known(&self, attempt: Attempt<'_>) -> bool {
        let Some(account) = attempt.account else { return false };
        let key = (account.to_owned(), Network::customer(attempt.address));
        attempt.has_token || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key)
    }

    /// Takes a try. It counts as failed from now on, so that many at once do not slip through; a success is
    /// told with [`Self::succeeded`].
    ///
    /// # Errors
    /// After how many seconds the next try is allowed.
    pub fn start(&self, attempt: Attempt<'_>, now: Timestamp) -> Result<(), u64> {
        let (customer, site) = (Network::customer(attempt.address), Network::site(attempt.address));
        if self.is_known(attempt) {
            let key = (attempt.account, customer);
            self.of_known.look(&key, now)?;
            self.of_known.count(&key, now);
            return Ok(());
        }
        self.addresses.look(&customer, now)?;
        self.sites.look(&site, now)?;
        if let Some(account) = attempt.account {
            self.both.look(&(account, customer), now)?;
            self.accounts.look(&account, now)?;
            self.both.count(&(account, customer), now);
            self.accounts.count(&account, now);
        }
        self.addresses.count(&customer, now);
        self.sites.count(&site, now);
        Ok(())
    }

    /// A try succeeded: it is given back, and its address is known to the account.
    pub fn succeeded(&self, attempt: Attempt<'_>, now: Timestamp) {
        let Some(account) = attempt.account else { return };
        let (customer, site) = (Network::customer(attempt.address), Network::site(attempt.address));
        if self.is_known(attempt) {
            self.of_known.reclaim(&(attempt.account, customer), now);
        } else {
            self.both.reclaim(&(account, customer), now);
            self.accounts.reclaim(&account, now);
            self.addresses.reclaim(&customer, now);
            self.sites.reclaim(&site, now);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        remember(&mut known, (account.to_owned(), customer), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    fn of(account: &str, address: IpAddr) -> Attempt<'_> {
        Attempt { account: Some(account), address, has_token: false }
    }

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn the_sixth_failure_within_a_minute_is_not_even_tried() {
        let limiter = LoginLimiter::default();
        for second in 0..5 {
            assert_eq!(limiter.start(of("alice", HOME), at(second)), Ok(()));
        }
        assert_eq!(limiter.start(of("alice", HOME), at(5)), Err(8));
        assert_eq!(limiter.start(of("bob", HOME), at(5)), Ok(()), "another account is not touched");
        let office = IpAddr::from([10, 0, 0, 2]);
        assert_eq!(limiter.start(of("alice", office), at(5)), Ok(()), "nor another address");
        assert_eq!(limiter.start(of("alice", HOME), at(13)), Ok(()));
        assert!(limiter.start(of("alice", HOME), at(13)).is_err());
    }

    #[test]
    fn tries_that_succeed_are_not_counted() {
        let limiter = LoginLimiter::default();
        for second in 0..100 {
            assert_eq!(limiter.start(of("alice", HOME), at(second)), Ok(()));
            limiter.succeeded(of("alice", HOME), at(second));
        }
    }

    #[test]
    fn an_address_that_tries_many_accounts_is_stopped() {
        let limiter = LoginLimiter::default();
        for n in 0..PER_ADDRESS.most {
            assert_eq!(limiter.start(of(&format!("user{n}"), HOME), at(0)), Ok(()));
        }
        assert!(limiter.start(of("fresh", HOME), at(1)).is_err());
        let nobody = Attempt { account: None, address: HOME, has_token: false };
        assert!(limiter.start(nobody, at(1)).is_err());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let limiter = LoginLimiter::default();
        for n in 0..5u16 {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
            assert_eq!(limiter.start(of("alice", address), at(0)), Ok(()));
        }
        let sixth = IpAddr::from([0x2001, 0xdb8, 0, 1, 9, 9, 9, 9]);
        assert!(limiter.start(of("alice", sixth), at(1)).is_err());
        let elsewhere = IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]);
        assert_eq!(limiter.start(of("alice", elsewhere), at(1)), Ok(()));
    }

    /// A home has 65,536 networks of its own behind one /48.
    #[test]
    fn the_networks_of_one_site_are_stopped_together() {
        let limiter = LoginLimiter::default();
        let tries = (0..1_000u16).filter(|n| {
            let address = IpAddr::from([0x2001, 0xdb8, 7, *n, 0, 0, 0, 1]);
            limiter.start(of(&format!("user{n}"), address), at(0)).is_ok()
        });
        assert_eq!(tries.count(), PER_SITE.most as usize);
    }

    #[test]
    fn a_million_strangers_do_not_shut_out_an_owner_who_is_known() {
        let limiter = LoginLimiter::default();
        assert_eq!(limiter.start(of("alice", HOME), at(0)), Ok(()));
        limiter.succeeded(of("alice", HOME), at(0));
        for n in 0..1_000_000_u32 {
            let address = IpAddr::from(std::net::Ipv4Addr::from(0x0b00_0000 + n * 7));
            let _ = limiter.start(of("alice", address), at(1));
        }
        let stranger = of("alice", IpAddr::from([192, 0, 2, 1]));
        assert!(limiter.start(stranger, at(1)).is_err(), "the account's own limit holds for strangers");
        assert_eq!(limiter.start(of("alice", HOME), at(1)), Ok(()), "from an address that logged in before");
        let with_token = Attempt { has_token: true, ..stranger };
        assert_eq!(limiter.start(with_token, at(1)), Ok(()), "and with a token of the account");
        // Whoever is known may not guess without end, either.
        for _ in 0..4 {
            assert_eq!(limiter.start(of("alice", HOME), at(1)), Ok(()));
        }
        assert!(limiter.start(of("alice", HOME), at(1)).is_err());
    }
}

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

/// Remembers tries that have not succeeded.
#[derive(Default)]
pub struct LoginLimiter {
    tries: Mutex<HashMap<Key, VecDeque<Timestamp>>>,
}

impl LoginLimiter {
    /// Takes a try. It counts as failed from now on, so that many at once do not slip through; a success is
    /// told with [`Self::succeeded`]. `account` is `None` for what is no name of an account at all.
    ///
    /// # Errors
    /// After how many seconds the next try is allowed.
    pub fn start(&self, account: Option<&str>, address: IpAddr, now: Timestamp) -> Result<(), u64> {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys(account, address);
        for (key, most) in &keys {
            let Some(at) = tries.get_mut(key) else { continue };
            while at.front().is_some_and(|first| now.since(*first) >= WINDOW) {
                at.pop_front();
            }
            if at.len() >= *most
                && let Some(first) = at.front()
            {
                return Err(WINDOW.saturating_sub(now.since(*first)).as_secs() + 1);
            }
        }
        if tries.len() > KEYS_MAX {
            tries.retain(|_, at| at.back().is_some_and(|last| now.since(*last) < WINDOW));
        }
        if tries.len() > KEYS_MAX {
            tries.clear();
        }
        for (key, _) in keys {
            tries.entry(key).or_default().push_back(now);
        }
        Ok(())
    }

    /// A try that was taken at `at` succeeded: it is given back, and the account's failures from that address
    /// are forgotten.
    pub fn succeeded(&self, account: &str, address: IpAddr, at: Timestamp) {
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, _) in keys(Some(account), address) {
            if let Some(times) = tries.get_mut(&key)
                && let Some(position) = times.iter().rposition(|time| *time == at)
            {
                times.remove(position);
            }
        }
        tries.remove(&Key::Both(account.into(), network(address)));
    }
}

fn keys(account: Option<&str>, address: IpAddr) -> Vec<(Key, usize)> {
    let address = network(address);
    let mut keys = vec![(Key::Address(address), PER_ADDRESS)];
    if let Some(account) = account {
        keys.push((Key::Both(account.into(), address), PER_ACCOUNT_AND_ADDRESS));
        keys.push((Key::Account(account.into()), PER_ACCOUNT));
    }
    keys
}

/// An IPv6 customer has a whole /64: it counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & !u128::from(u64::MAX)).to_be_bytes()),
    }
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
            assert_eq!(limiter.start(Some("alice"), home, at(second)), Ok(()));
        }
        assert_eq!(limiter.start(Some("alice"), home, at(5)), Err(56));
        assert_eq!(limiter.start(Some("bob"), home, at(5)), Ok(()), "another account is not touched");
        let office = IpAddr::from([10, 0, 0, 2]);
        assert_eq!(limiter.start(Some("alice"), office, at(5)), Ok(()), "nor another address");
        assert_eq!(limiter.start(Some("alice"), home, at(61)), Ok(()));
    }

    #[test]
    fn tries_that_succeed_are_not_counted() {
        let limiter = LoginLimiter::default();
        let home = IpAddr::from([10, 0, 0, 1]);
        for second in 0..100 {
            assert_eq!(limiter.start(Some("alice"), home, at(second)), Ok(()));
            limiter.succeeded("alice", home, at(second));
        }
    }

    #[test]
    fn an_address_that_tries_many_accounts_is_stopped() {
        let limiter = LoginLimiter::default();
        let home = IpAddr::from([10, 0, 0, 1]);
        for n in 0..PER_ADDRESS {
            assert_eq!(limiter.start(Some(&format!("user{n}")), home, at(0)), Ok(()));
        }
        assert!(limiter.start(Some("fresh"), home, at(1)).is_err());
        assert!(limiter.start(None, home, at(1)).is_err());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let limiter = LoginLimiter::default();
        for n in 0..5u16 {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
            assert_eq!(limiter.start(Some("alice"), address, at(0)), Ok(()));
        }
        let sixth = IpAddr::from([0x2001, 0xdb8, 0, 1, 9, 9, 9, 9]);
        assert!(limiter.start(Some("alice"), sixth, at(1)).is_err());
        let elsewhere = IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 1]);
        assert_eq!(limiter.start(Some("alice"), elsewhere, at(1)), Ok(()));
    }
}

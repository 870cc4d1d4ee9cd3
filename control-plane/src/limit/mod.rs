//! Limits by rate: failed logins, sign-ups, and requests.
//!
//! Memory is bounded whatever comes: a limit counts in a table of fixed size, in which keys share places. A key is refused
//! only when its places in both rows are full, so that many strangers together may be taken for one, but nobody is
//! forgotten because others came. Whoever is known to an account (an address that logged in before, a token of
//! the account) is counted apart, so that strangers cannot shut its owner out.

mod logins;
mod requests;

pub use logins::{Attempt, LoginLimiter};
pub use requests::{Asker, Purpose, RequestLimiter};

use orion_domain::Timestamp;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Places of one row of a limit.
const PLACES: usize = 16 * 1024;
/// Rows of a limit.
const ROWS: usize = 2;

/// Number of uses within a period; after that, uses become free again evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Number of uses at once; 0: any number.
    pub most: u32,
    /// Within which time.
    pub within: Duration,
}

impl Rate {
    /// Returns a rate of `most` in a minute.
    pub const fn a_minute(most: u32) -> Self {
        Self { most, within: Duration::from_secs(60) }
    }

    /// Returns a rate of `most` in an hour.
    pub const fn an_hour(most: u32) -> Self {
        Self { most, within: Duration::from_secs(3600) }
    }

    fn window_us(self) -> i64 {
        i64::try_from(self.within.as_micros()).unwrap_or(i64::MAX)
    }

    fn pause_us(self) -> i64 {
        self.window_us() / i64::from(self.most.max(1))
    }
}

/// One limit for any number of keys. A place holds the time at which all that was counted in it is over (the generic
/// cell rate algorithm).
#[derive(Debug)]
pub struct Limit {
    rate: Rate,
    hashers: [RandomState; ROWS],
    rows: Mutex<[Vec<i64>; ROWS]>,
}

impl Limit {
    /// A limit in which nothing was counted yet.
    pub fn new(rate: Rate) -> Self {
        let places = if rate.most == 0 { 0 } else { PLACES };
        Self {
            rate,
            hashers: std::array::from_fn(|_| RandomState::new()),
            rows: Mutex::new(std::array::from_fn(|_| vec![i64::MIN; places])),
        }
    }

    fn places(&self, key: &impl Hash) -> [usize; ROWS] {
        std::array::from_fn(|row| (self.hashers[row].hash_one(key) % PLACES as u64) as usize)
    }

    /// Whether one more may come.
    ///
    /// # Errors
    /// After how many seconds it may.
    pub fn look(&self, key: &impl Hash, now: Timestamp) -> Result<(), u64> {
        if self.rate.most == 0 {
            return Ok(());
        }
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.places(key);
        // The emptiest of its places: the others are full of strangers.
        let over = rows.iter().zip(places).map(|(row, place)| row[place]).min().unwrap_or(i64::MIN);
        let free_at = over.saturating_add(self.rate.pause_us()).saturating_sub(self.rate.window_us());
        let wait = free_at.saturating_sub(now.as_micros());
        if wait <= 0 { Ok(()) } else { Err(u64::try_from(wait / 1_000_000).unwrap_or(0) + 1) }
    }

    /// Counts one.
    pub fn count(&self, key: &impl Hash, now: Timestamp) {
        self.add(key, self.rate.pause_us(), now);
    }

    /// Takes one back that was counted.
    pub fn reclaim(&self, key: &impl Hash, now: Timestamp) {
        self.add(key, -self.rate.pause_us(), now);
    }

    fn add(&self, key: &impl Hash, pause_us: i64, now: Timestamp) {
        if self.rate.most == 0 {
            return;
        }
        let places = self.places(key);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, place) in rows.iter_mut().zip(places) {
            row[place] = row[place].max(now.as_micros()).saturating_add(pause_us);
        }
    }
}

/// A part of an address: what one customer has, or one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(u128, u32);

impl Network {
    /// The first bits of an address; an IPv4 address stands for itself up to `v4` bits.
    fn of(address: IpAddr, v4: u32, v6: u32) -> Self {
        let (bits, kept) = match address.to_canonical() {
            IpAddr::V4(v4_address) => (u128::from(v4_address.to_bits()) << 96, v4),
            IpAddr::V6(v6_address) => (v6_address.to_bits(), v6 + 1000),
        };
        let mask = u128::MAX.checked_shl(128 - kept % 1000).unwrap_or(0);
        Self(bits & mask, kept)
    }

    /// Returns the network of one customer: an IPv4 address, an IPv6 /64.
    pub fn customer(address: IpAddr) -> Self {
        Self::of(address, 32, 64)
    }

    /// Returns the network of one site: an IPv4 /24, an IPv6 /48.
    pub fn site(address: IpAddr) -> Self {
        Self::of(address, 24, 48)
    }
}

/// Most addresses that are known to accounts, and most workers' tokens that are known to be good.
const KNOWN_MAX: usize = 20_000;

/// Remembers that `key` was good now; of too many the one of longest ago is forgotten.
fn remember<K: Clone + Eq + Hash>(known: &mut HashMap<K, Timestamp>, key: K, now: Timestamp) {
    if known.len() >= KNOWN_MAX
        && !known.contains_key(&key)
        && let Some(oldest) = known.iter().min_by_key(|(_, at)| at.as_micros()).map(|(key, _)| key.clone())
    {
        known.remove(&oldest);
    }
    known.insert(key, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn a_limit_keeps_its_size_and_forgets_nobody_because_others_came() {
        let limit = Limit::new(Rate::a_minute(5));
        for _ in 0..5 {
            limit.count(&"target", at(0));
        }
        for n in 0..100_000 {
            limit.count(&n, at(0));
        }
        assert!(limit.look(&"target", at(1)).is_err());
        let rows = limit.rows.lock().unwrap();
        assert!(rows.iter().all(|row| row.len() == PLACES && row.capacity() < 2 * PLACES));
    }
}

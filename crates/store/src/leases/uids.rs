//! Uids for placements on MariaDB: reserved in the database, for all placements of this process that wait for some
//! with one statement.
//!
//! Lives here: that no uid is given out twice, and that they only grow. Does not live here: which node gets which.
//! Nothing is kept for later: whoever asks gets uids that were reserved after it asked. A placement that has read its
//! nodes before can so rely on it that each earlier lease on them has a lower uid.

use crate::engine::{Db, Result, StoreError, vals};
use sqlx::AssertSqlSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Uids that one placement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UidRequest {
    /// Number of consecutive uids.
    pub count: u32,
    /// Lowest uid allowed.
    pub at_least: u32,
    /// Highest uid allowed.
    pub last: u32,
}

/// Queue in which placements wait for uids.
#[derive(Default)]
pub(crate) struct UidAllocator {
    waiting: Mutex<Vec<(UidRequest, oneshot::Sender<u32>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl UidAllocator {
    /// The first of the uids. None when there are no more.
    pub(crate) async fn reserve(&self, db: &Db, wish: UidRequest) -> Result<Option<u32>> {
        let (sender, mut reserved) = oneshot::channel();
        self.waiting().push((wish, sender));
        let _turn = self.turn.lock().await;
        // Somebody who had the turn meanwhile may have reserved for this one, too.
        if let Ok(first) = reserved.try_recv() {
            return Ok(Some(first));
        }
        // One of these is this one's own; those who went away are left out.
        let waiting = std::mem::take(&mut *self.waiting());
        let others: Vec<_> = waiting.into_iter().filter(|(_, sender)| !sender.is_closed()).collect();
        let all = together(others.iter().map(|(wish, _)| *wish));
        if let (Some(all), true) = (all, others.len() > 1)
            && let Some(mut first) = reserve(db, all).await?
        {
            for (wish, sender) in others {
                // Who went away meanwhile loses them.
                let _ = sender.send(first);
                first += wish.count;
            }
            // None when this one's wish had gone with somebody who had the turn and went away.
            if let Ok(first) = reserved.try_recv() {
                return Ok(Some(first));
            }
        }
        // Alone, or too few are left for all: each for itself. The others find their place in the queue gone.
        reserve(db, wish).await
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(UidRequest, oneshot::Sender<u32>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One wish for all of them; none when it would be too large.
fn together(wishes: impl Iterator<Item = UidRequest>) -> Option<UidRequest> {
    wishes.map(Some).reduce(|all, one| {
        let (all, one) = (all?, one?);
        Some(UidRequest {
            count: all.count.checked_add(one.count)?,
            at_least: all.at_least.max(one.at_least),
            last: all.last.min(one.last),
        })
    })?
}

async fn reserve(db: &Db, wish: UidRequest) -> Result<Option<u32>> {
    let next = "GREATEST(CAST(value AS SIGNED), ?) + ?";
    let sql = format!(
        "UPDATE settings SET value = CAST(LAST_INSERT_ID({next}) AS CHAR) \
         WHERE name = 'next_uid' AND value REGEXP '^[0-9]+$' AND {next} <= ?"
    );
    let beyond = i64::from(wish.last) + 1;
    let values = vals![wish.at_least, wish.count, wish.at_least, wish.count, beyond];
    let (changed, next) = db.alone(AssertSqlSafe(sql), values).await?;
    if changed == 1 {
        return Ok(u32::try_from(next - i64::from(wish.count)).ok());
    }
    let sql = "SELECT value FROM settings WHERE name = 'next_uid'";
    let value = db.one::<(String,)>(sql, vals![]).await?;
    read_uid(value.map(|(value,)| value)).map(|_| None)
}

/// The next uid as the database has it.
pub(crate) fn read_uid(value: Option<String>) -> Result<u32> {
    let uid = value.as_deref().and_then(|value| value.parse().ok());
    Ok(uid.ok_or_else(|| StoreError::Corrupt {
        table: "settings",
        id: 0,
        detail: format!("next_uid: {value:?} is no uid"),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_put_together_so_that_each_is_kept() {
        let wish = |count, at_least, last| UidRequest { count, at_least, last };
        let all = [wish(1, 200_000, 900_000), wish(3, 231_082, 800_000), wish(2, 200_000, 900_000)];
        assert_eq!(together(all.into_iter()), Some(wish(6, 231_082, 800_000)));
        assert_eq!(together(all.into_iter().take(1)), Some(all[0]));
        assert_eq!(together(std::iter::empty()), None);
        let huge = wish(u32::MAX, 0, u32::MAX);
        assert_eq!(together([huge, huge, wish(1, 0, 1)].into_iter()), None);
    }
}

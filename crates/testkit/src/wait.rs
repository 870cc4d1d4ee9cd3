//! Waiting for a state: polls every 20 ms, gives up loudly. Never a bare sleep in a test.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Outcome of one try: `Option<T>`, or `Result<T, E>` where `E` is what was seen instead and appears in
/// the panic message.
pub trait Attempt {
    /// Value that is waited for.
    type Found;
    /// `Ok` when it is there, otherwise a description of what was seen.
    fn outcome(self) -> Result<Self::Found, String>;
}

impl<T> Attempt for Option<T> {
    type Found = T;
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: Debug> Attempt for Result<T, E> {
    type Found = T;
    fn outcome(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

/// Looks every 20 ms until `probe` finds something. One look may itself take at most what is left of
/// `timeout`.
///
/// # Panics
/// After `timeout`, with `what` and the last value seen.
pub async fn wait_until<A: Attempt>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> A,
) -> A::Found {
    let started = Instant::now();
    let mut last_seen = "no answer from the first look".to_owned();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, probe()).await.map(Attempt::outcome) {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => last_seen = seen,
            Err(_) => panic!("waited {timeout:?} for: {what}; last seen: {last_seen} (then a look hung)"),
        }
        assert!(started.elapsed() < timeout, "waited {timeout:?} for: {what}; last seen: {last_seen}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// [`wait_until`] for code without a runtime; a look that hangs is not cut short.
///
/// # Panics
/// After `timeout`, with `what` and the last value seen.
pub fn wait_until_blocking<A: Attempt>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> A,
) -> A::Found {
    let started = Instant::now();
    loop {
        match probe().outcome() {
            Ok(found) => return found,
            Err(seen) => {
                assert!(started.elapsed() < timeout, "waited {timeout:?} for: {what}; last seen: {seen}");
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_that_comes_later_is_found() {
        let mut looks = 0;
        let found = wait_until("the third look", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some(looks)
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "for: a miracle; last seen: \"only rain\"")]
    async fn giving_up_says_what_was_awaited_and_what_was_seen() {
        wait_until("a miracle", Duration::from_millis(50), async || Err::<(), _>("only rain")).await;
    }

    #[tokio::test]
    #[should_panic(expected = "then a look hung")]
    async fn a_look_that_hangs_is_cut_short() {
        wait_until("a miracle", Duration::from_millis(50), async || {
            std::future::pending::<Option<()>>().await
        })
        .await;
    }
}

//! Holds the API to its word: whoever is told that a login works can log in, and a lease that is over lets nobody in.

use super::user::{Ticket, User};
use orion_testkit::LoginError;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Beginning of a lease's `state_reason` when its login was seen to work.
pub const WORKS: &str = "the login works";

/// Time for which a login may fail before the API must stop reporting that it works. An agent sees a
/// change of sshd's or PAM's settings within 5 s; a session that breaks, and one keep-alive, take less.
const SLOW_TO_NOTICE: Duration = Duration::from_secs(10);

/// A look at every lease, then a login at each that is said to work.
const PAUSE: Duration = Duration::from_millis(500);

/// Watches the leases of some tickets until [`Truthful::was_true`] is asked.
pub struct Truthful {
    watcher: JoinHandle<()>,
    untrue: Arc<Mutex<Vec<String>>>,
}

impl Truthful {
    /// Starts to poll the leases of these tickets, as their owner.
    pub fn watch(owner: &User, tickets: &[Ticket]) -> Self {
        let untrue = Arc::new(Mutex::new(Vec::new()));
        let watcher = tokio::spawn(watch(owner.clone(), tickets.to_vec(), Arc::clone(&untrue)));
        Self { watcher, untrue }
    }

    /// Ends the watch.
    ///
    /// # Panics
    /// With what the API said and what the login did, if they ever differed; and when the watcher itself failed.
    pub async fn was_true(self) {
        assert!(!self.watcher.is_finished(), "{:?}", self.watcher.await);
        self.watcher.abort();
        let untrue = self.untrue.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(untrue.is_empty(), "the API said what was not true: {:#?}", *untrue);
    }
}

async fn watch(owner: User, tickets: Vec<Ticket>, untrue: Arc<Mutex<Vec<String>>>) {
    let mut failing_since: HashMap<i64, Instant> = HashMap::new();
    loop {
        for ticket in &tickets {
            let Some(lease) = shown(&owner, ticket).await else { continue };
            let complaint = if lease["state"] == "ended" {
                is_let_in_after_the_end(ticket).await
            } else {
                fails_for_too_long(&owner, ticket, &lease, &mut failing_since).await
            };
            if let Some(complaint) = complaint {
                untrue.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The lease, unless the API is away: then it says nothing.
async fn shown(owner: &User, ticket: &Ticket) -> Option<Value> {
    let path = format!("/api/rentals/{}", ticket.rental_id);
    let reply = owner.try_send(reqwest::Method::GET, &path, None, None).await.ok()?;
    (reply.status == 200).then_some(reply.body)
}

async fn is_let_in_after_the_end(ticket: &Ticket) -> Option<String> {
    let answer = ticket.by_password().connect_timeout(Duration::from_secs(3)).run("id -un").await;
    answer.ok().map(|name| format!("lease {} is over, and {name:?} is still let in", ticket.rental_id))
}

async fn fails_for_too_long(
    owner: &User,
    ticket: &Ticket,
    lease: &Value,
    failing_since: &mut HashMap<i64, Instant>,
) -> Option<String> {
    let id = ticket.rental_id;
    if !says_that_it_works(lease) {
        failing_since.remove(&id);
        return None;
    }
    let began = Instant::now();
    let login = owner.login_at(ticket, lease).connect_timeout(Duration::from_secs(3));
    let error = match login.run("id -un").await {
        // A command that fails, as on a full disk, was let in.
        Ok(_) | Err(LoginError::Command { .. }) => {
            failing_since.remove(&id);
            return None;
        }
        Err(error) => error,
    };
    let since = *failing_since.entry(id).or_insert(began);
    if since.elapsed() < SLOW_TO_NOTICE || !says_that_it_works(&shown(owner, ticket).await?) {
        return None;
    }
    Some(format!("after {:?} lease {id} is still said to work: {error:?}", since.elapsed()))
}

fn says_that_it_works(lease: &Value) -> bool {
    lease["state_reason"].as_str().is_some_and(|reason| reason.starts_with(WORKS))
}

//! One machine that is rented by a tag of its own: both logins, the release, and that it is well again.

use super::{
    system::System,
    user::{Ticket, User, is_refused},
};
use orion_testkit::{KeyPair, LoginError, Worker, wait_until};
use serde_json::json;
use std::time::Duration;

/// A worker that can be rented by a tag of its own.
pub struct Site<'a> {
    pub system: &'a System,
    pub worker: &'a Worker,
    pub tag: &'a str,
    pub user: &'a User,
    pub key: &'a KeyPair,
}

impl Site<'_> {
    /// `POST /api/rent` for this worker.
    pub async fn try_rent(&self) -> super::user::Reply {
        let body =
            json!({ "duration_hours": 1, "tags": [self.tag], "ssh_public_key": self.key.public_line() });
        self.user.try_rent(&body, None).await.expect("a reply")
    }

    /// The same, which must succeed.
    pub async fn rent(&self) -> Ticket {
        super::user::tickets(&self.try_rent().await.expect(200)).remove(0)
    }

    /// Asserts that both logins of a ticket work now.
    pub async fn both_logins_work(&self, ticket: &Ticket, when: &str) {
        let name = format!("{}\n", ticket.client_user);
        for (how, answer) in [
            ("password", ticket.by_password().run("id -un").await),
            ("key", ticket.by_key(self.key).run("id -un").await),
        ] {
            assert_eq!(answer.as_deref(), Ok(name.as_str()), "{when}: by {how} on {}", self.worker.name());
        }
    }

    /// Releases, waits for the end, and tries the login.
    pub async fn is_released(&self, ticket: &Ticket) {
        self.user.release(ticket.rental_id).await;
        self.user.until(ticket.rental_id, "over", |lease| lease["state"] == "ended").await;
        is_refused(&ticket.by_password()).await;
    }

    /// Asserts that the worker is offered again by itself after the setting is gone, and that the login
    /// works.
    pub async fn is_well_again(&self, setting: &str) {
        self.system.until_offered(std::slice::from_ref(self.worker)).await;
        let ticket = self.rent().await;
        self.both_logins_work(&ticket, &format!("after {setting}")).await;
        self.is_released(&ticket).await;
        self.system.until_offered(std::slice::from_ref(self.worker)).await;
    }
}

/// Asserts that the login is refused within 5 s from now.
pub async fn is_shut_within_5_s(ticket: &Ticket) {
    wait_until("the login is refused", Duration::from_secs(5), async || {
        match ticket.by_password().run("id").await {
            Err(LoginError::Refused(_)) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

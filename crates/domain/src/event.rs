//! Every event of the log, typed: its kind and its data. docs/EVENTS.md tells each, and a test holds both equal.

mod node;

pub use crate::{container::ContainerEvent, lease::LeaseEvent};
pub use node::{HealthChange, LinkChange, NodeEvent};

use crate::{
    TokenId, UserId, WebhookId,
    account::{Quotas, Role},
};
use serde::Serialize;
use serde_json::Value;
use strum::{IntoStaticStr, VariantNames};

/// Content of one event: its kind with its data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EventPayload {
    /// Event about a lease.
    Lease(LeaseEvent),
    /// Event about a container.
    Container(ContainerEvent),
    /// Event about a node.
    Node(NodeEvent),
    /// Event about an account of the API.
    User(UserEvent),
    /// Event about a join token.
    JoinToken(JoinTokenEvent),
    /// Event about a webhook.
    Webhook(WebhookEvent),
    /// Event about the brake.
    Brake(BrakeEvent),
    /// Event about the uids given out.
    Uids(UidsEvent),
    /// Event about the database.
    Database(DatabaseEvent),
}

/// An event about an account of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "user.")]
pub enum UserEvent {
    /// The account was created.
    Created {
        /// User name of the account.
        username: String,
        /// Role of the account.
        role: Role,
    },
    /// The account became an admin's, with a new password, on the control plane's own command line.
    AdminSet {
        /// User name of the account.
        username: String,
    },
    /// An admin made an invitation to sign up.
    Invited {
        /// The invitation.
        invite_id: i64,
        /// The admin's note.
        note: String,
        /// Number of accounts that the invitation may create.
        uses: u32,
    },
    /// The account's owner made its tokens void.
    LoggedOut {},
    /// An admin disabled the account.
    Disabled {
        /// User name of the account.
        username: String,
    },
    /// An admin enabled the account again.
    Enabled {
        /// User name of the account.
        username: String,
    },
    /// An admin made its owner an admin.
    Promoted {
        /// User name of the account.
        username: String,
    },
    /// An admin made its owner a user.
    Demoted {
        /// User name of the account.
        username: String,
    },
    /// An admin set a password.
    PasswordSet {
        /// User name of the account.
        username: String,
    },
    /// The account's owner changed the password.
    PasswordChanged {
        /// User name of the account.
        username: String,
    },
    /// An admin set quotas for the account.
    QuotasSet {
        /// User name of the account.
        username: String,
        /// Quotas that hold from now on.
        #[serde(flatten)]
        quotas: Quotas,
    },
}

/// An event about a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "join_token.")]
pub enum JoinTokenEvent {
    /// An admin made a token with which workers join.
    Created {
        /// The token.
        token_id: TokenId,
        /// The admin's note.
        note: String,
    },
    /// An admin revoked the token.
    Revoked {
        /// The token.
        token_id: TokenId,
    },
}

/// An event about a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "webhook.")]
pub enum WebhookEvent {
    /// An admin made the webhook.
    Created {
        /// The webhook.
        webhook_id: WebhookId,
    },
    /// An admin deleted the webhook.
    Deleted {
        /// The webhook.
        webhook_id: WebhookId,
    },
    /// An admin tried the webhook: no other webhook gets this event.
    Test {
        /// The webhook.
        webhook_id: WebhookId,
    },
}

/// An event about the brake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "brake.")]
pub enum BrakeEvent {
    /// The brake was engaged: so many nodes went silent at once that none is given up.
    Engaged {
        /// Observation for which the brake was pulled.
        reason: String,
        /// The replica that engaged it.
        by: String,
    },
    /// Nodes that stay silent are given up again.
    Lifted {
        /// Reason for lifting the brake.
        reason: String,
    },
}

/// An event about the uids given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "uids.")]
pub enum UidsEvent {
    /// A node had seen a uid that the database had not given out.
    Raised {
        /// The next uid before.
        from: u32,
        /// The next uid now.
        to: u32,
        /// The highest uid that the node had seen.
        seen_by_node: u32,
    },
}

/// An event about the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, IntoStaticStr, VariantNames)]
#[serde(untagged)]
#[strum(serialize_all = "snake_case", prefix = "database.")]
pub enum DatabaseEvent {
    /// `orion admin after-restore` settled what an older backup does not know.
    Restored {
        /// Nodes to look at.
        nodes: u64,
        /// Leases that are not over.
        leases: u64,
        /// Uid of the next account, before and after.
        next_uid: Change<u32>,
    },
}

/// A value before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// The value before.
    pub from: T,
    /// The value now.
    pub to: T,
}

/// Every kind of event.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let groups = [
        LeaseEvent::VARIANTS,
        ContainerEvent::VARIANTS,
        NodeEvent::VARIANTS,
        UserEvent::VARIANTS,
        JoinTokenEvent::VARIANTS,
        WebhookEvent::VARIANTS,
        BrakeEvent::VARIANTS,
        UidsEvent::VARIANTS,
        DatabaseEvent::VARIANTS,
    ];
    groups.into_iter().flatten().copied()
}

impl EventPayload {
    /// The kind, `noun.verb`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lease(event) => event.into(),
            Self::Container(event) => event.into(),
            Self::Node(event) => event.into(),
            Self::User(event) => event.into(),
            Self::JoinToken(event) => event.into(),
            Self::Webhook(event) => event.into(),
            Self::Brake(event) => event.into(),
            Self::Uids(event) => event.into(),
            Self::Database(event) => event.into(),
        }
    }

    /// The data as a JSON object, with `actor` where somebody asked for the change.
    pub fn data(&self, actor: Option<UserId>) -> Value {
        let mut data = serde_json::to_value(self).unwrap_or_default();
        if let (Some(actor), Some(fields)) = (actor, data.as_object_mut()) {
            fields.insert("actor".into(), actor.0.into());
        }
        data
    }
}

macro_rules! payload_from {
    ($($group:ident($event:ty)),* $(,)?) => {$(
        impl From<$event> for EventPayload {
            fn from(event: $event) -> Self {
                Self::$group(event)
            }
        }
    )*};
}
payload_from!(
    Lease(LeaseEvent),
    Container(ContainerEvent),
    Node(NodeEvent),
    User(UserEvent),
    JoinToken(JoinTokenEvent),
    Webhook(WebhookEvent),
    Brake(BrakeEvent),
    Uids(UidsEvent),
    Database(DatabaseEvent),
);

#[cfg(test)]
mod tests;

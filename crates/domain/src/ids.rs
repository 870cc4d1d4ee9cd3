//! Identifiers as types: a lease's number cannot be passed where a node's is wanted.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

id!(
    /// A machine that registered itself.
    NodeId
);
id!(
    /// A lease; `rental_id` in the HTTP API.
    LeaseId
);
id!(
    /// An account of the API.
    UserId
);
id!(
    /// A row of the event log; grows, but does not become visible in order.
    EventId
);
id!(
    /// A join token that lets workers register.
    TokenId
);
id!(
    /// An address that events are sent to.
    WebhookId
);
id!(
    /// A container of a lease.
    ContainerId
);
id!(
    /// One event for one webhook.
    DeliveryId
);

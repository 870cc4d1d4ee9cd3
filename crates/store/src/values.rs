//! Values to bind to a query: Orion's own types become the four that both databases know.

use orion_domain::{DeliveryId, LeaseId, NodeId, Timestamp, UserId, WebhookId};

/// A value to bind.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl From<i64> for Val {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}
impl From<u32> for Val {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}
impl From<bool> for Val {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}
impl From<&str> for Val {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}
impl From<String> for Val {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
impl From<&String> for Val {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}
impl From<&[u8]> for Val {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.into())
    }
}
impl From<Timestamp> for Val {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.as_micros())
    }
}
impl From<NodeId> for Val {
    fn from(value: NodeId) -> Self {
        Self::Int(value.0)
    }
}
impl From<LeaseId> for Val {
    fn from(value: LeaseId) -> Self {
        Self::Int(value.0)
    }
}
impl From<WebhookId> for Val {
    fn from(value: WebhookId) -> Self {
        Self::Int(value.0)
    }
}
impl From<DeliveryId> for Val {
    fn from(value: DeliveryId) -> Self {
        Self::Int(value.0)
    }
}
impl From<UserId> for Val {
    fn from(value: UserId) -> Self {
        Self::Int(value.0)
    }
}
impl<T: Into<Val>> From<Option<T>> for Val {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A list of values to bind, of any types.
macro_rules! vals {
    ($($value:expr),* $(,)?) => { vec![$($crate::values::Val::from($value)),*] };
}
pub(crate) use vals;

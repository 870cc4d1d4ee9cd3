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

/// Values of one `IN`.
const LIST_MAX: usize = 512;

/// `values` for `IN (…)`: the places and what stands there, in lists of at most 512. The last value is repeated until
/// there is a power of two of them: so there are few texts of a query, and each stays prepared.
pub(crate) fn in_lists<T: Copy + Into<Val>>(values: &[T]) -> impl Iterator<Item = (String, Vec<Val>)> {
    values.chunks(LIST_MAX).map(|batch| {
        let count = batch.len().next_power_of_two();
        let repeated = batch.iter().chain(batch.last().into_iter().cycle());
        (vec!["?"; count].join(", "), repeated.take(count).map(|value| (*value).into()).collect())
    })
}

/// A list of values to bind, of any types.
macro_rules! vals {
    ($($value:expr),* $(,)?) => { vec![$($crate::engine::Val::from($value)),*] };
}
pub(crate) use vals;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_filled_up_with_its_last_value() {
        let ids = |list: &[Val]| -> Vec<i64> {
            let id = |value: &Val| if let Val::Int(id) = value { *id } else { panic!("{value:?}") };
            list.iter().map(id).collect()
        };
        let lists = |count: i64| in_lists(&(1..=count).map(NodeId).collect::<Vec<_>>()).collect::<Vec<_>>();
        assert!(lists(0).is_empty());
        for (count, wanted) in [(1, vec![1]), (2, vec![1, 2]), (3, vec![1, 2, 3, 3])] {
            let [(places, values)] = &lists(count)[..] else { panic!("{count}") };
            assert_eq!((ids(values), places.matches('?').count()), (wanted.clone(), wanted.len()));
        }
        let many = lists(1_000);
        assert_eq!(many.iter().map(|(_, values)| values.len()).collect::<Vec<_>>(), [512, 512]);
        assert_eq!(ids(&many[1].1)[487..490], [1_000, 1_000, 1_000]);
    }
}

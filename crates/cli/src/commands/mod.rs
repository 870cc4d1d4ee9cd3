//! The commands, by noun: ask the API, show the answer.

pub mod accounts;
pub mod containers;
pub mod events;
pub mod images;
pub mod leases;
pub mod nodes;
pub mod operations;
mod pulls;
pub mod webhooks;

/// A fresh idempotency key: 128 random bits in hexadecimal.
fn new_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// `hint`, with the name that may have been meant in front of it.
fn near_miss(wanted: &str, names: &[&str], hint: &str) -> String {
    let wanted = wanted.to_lowercase();
    let near = names.iter().map(|name| (strsim::damerau_levenshtein(&wanted, &name.to_lowercase()), name));
    match near.min() {
        Some((distance, name)) if distance <= 1 + wanted.chars().count() / 4 => {
            format!("did you mean '{name}'? {hint}")
        }
        Some(_) | None => hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotency_keys_differ() {
        assert_ne!(new_key(), new_key());
        assert_eq!(new_key().len(), 32);
    }
}

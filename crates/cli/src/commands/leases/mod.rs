//! `rent`, `ls`, `show`, `ssh`, `extend`, `release`: a user's leases.
//!
//! Lives here: how a lease is found by what the user calls it, and its state in words.

pub mod extend;
pub mod list;
pub mod release;
pub mod rent;
pub mod ssh;
pub mod ssh_config;

use super::near_miss;
use crate::{
    client::{Client, escape},
    error::{CliError, Kind},
    model::{Rental, shape},
    output,
};
use orion_domain::Timestamp;
use serde_json::Value;

/// A number or a name (or its beginning) of a lease, as clap checks it.
pub(super) fn lease_argument(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || text.contains(|c: char| c.is_control() || c == '/') {
        return Err("a lease is given by its number, its name, or the beginning of its name".into());
    }
    Ok(text.to_owned())
}

/// `active for 3 min: moved from node-1`: a state with its age and its reason.
fn state(now: Timestamp, rental: &Rental) -> String {
    let reason = rental.state_reason.as_deref().filter(|reason| !reason.is_empty());
    let age = output::age(now, rental.state_since);
    format!("{} for {age}{}", rental.state, reason.map(|reason| format!(": {reason}")).unwrap_or_default())
}

/// The lease that `wanted` means: its number, its name, or the beginning of exactly one lease's name.
async fn find(client: &Client, wanted: &str) -> Result<Value, CliError> {
    let error = match client.get(&format!("/api/rentals/{}", escape(wanted))).await {
        Ok(value) => return Ok(value),
        Err(error) if error.kind() == Kind::NotFound => error,
        Err(error) => return Err(error),
    };
    if is_number(wanted) {
        return Err(error.hint("see your leases: orion ls"));
    }
    let list = client.list("/api/rentals").await?;
    let rentals = list.iter().map(|value| shape(value, "lease")).collect::<Result<Vec<Rental>, _>>()?;
    let id = the_one_that_begins_with(wanted, &rentals)?;
    client.get(&format!("/api/rentals/{id}")).await
}

fn is_number(wanted: &str) -> bool {
    wanted.bytes().all(|byte| byte.is_ascii_digit())
}

fn the_one_that_begins_with(wanted: &str, rentals: &[Rental]) -> Result<i64, CliError> {
    let named = |rental: &&Rental| rental.name.as_deref().is_some_and(|name| name.starts_with(wanted));
    let matches: Vec<&Rental> = rentals.iter().filter(named).collect();
    match matches.as_slice() {
        [one] => Ok(one.rental_id),
        [] => {
            let names: Vec<&str> = rentals.iter().filter_map(|rental| rental.name.as_deref()).collect();
            let error = CliError::new(Kind::NotFound, format!("no lease '{wanted}'"));
            Err(error.hint(near_miss(wanted, &names, "see your leases: orion ls")))
        }
        several => {
            let names: Vec<String> = several.iter().map(|rental| rental.handle()).collect();
            Err(CliError::new(Kind::NotFound, format!("'{wanted}' could mean {}", names.join(", ")))
                .hint("give the whole name, or the number"))
        }
    }
}

/// The number of the lease that `wanted` means; a number is taken at its word, without a question.
pub(super) async fn find_id(client: &Client, wanted: &str) -> Result<i64, CliError> {
    match wanted.parse() {
        Ok(id) if is_number(wanted) => Ok(id),
        Ok(_) | Err(_) => Ok(shape::<Rental>(&find(client, wanted).await?, "lease")?.rental_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_beginning_means_a_lease_only_when_it_is_the_only_one() {
        let rentals: Vec<Rental> = [
            json!({"rental_id": 1, "name": "train"}),
            json!({"rental_id": 2, "name": "trial"}),
            json!({"rental_id": 3}),
        ]
        .iter()
        .map(|value| shape(value, "lease").unwrap())
        .collect();
        assert_eq!(the_one_that_begins_with("tra", &rentals).unwrap(), 1);
        let error = the_one_that_begins_with("tr", &rentals).unwrap_err().to_string();
        assert!(error.contains("train, trial"), "{error}");
        let error = the_one_that_begins_with("xyz", &rentals).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("did you mean")), (Kind::NotFound, false));
        let error = the_one_that_begins_with("tarin", &rentals).unwrap_err().to_string();
        assert_eq!(error, "error: no lease 'tarin'\nhint: did you mean 'train'? see your leases: orion ls");
    }
}

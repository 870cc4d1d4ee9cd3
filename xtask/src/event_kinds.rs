//! That docs/EVENTS.md tells of every kind of event that the code writes, and of no other.

use crate::{checks, failure::Outcome, repo};
use std::{collections::BTreeSet, path::Path};

const DOCUMENT: &str = "docs/EVENTS.md";
/// Where events are written.
const SOURCES: [&str; 2] = ["crates/domain/src", "crates/store/src"];
/// The first words of all kinds.
const GROUPS: [&str; 8] = ["brake", "database", "join_token", "lease", "node", "uids", "user", "webhook"];

/// The document and the code name the same kinds.
///
/// # Errors
/// Names the kinds that only one of them has.
pub fn check() -> Outcome {
    let mut written = BTreeSet::new();
    for path in repo::files()? {
        let is_source = SOURCES.iter().any(|source| path.starts_with(source));
        if is_source && path.extension().is_some_and(|extension| extension == "rs") {
            let text = checks::read(&path)?;
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            written.extend(kinds(code, '"'));
        }
    }
    let told = kinds(&checks::read(Path::new(DOCUMENT))?, '`');
    let mut complaints: Vec<String> =
        written.difference(&told).map(|kind| format!("{DOCUMENT} does not tell of `{kind}`")).collect();
    complaints.extend(told.difference(&written).map(|kind| format!("{DOCUMENT}: nothing writes `{kind}`")));
    if written.is_empty() {
        complaints.push("no kind of event was found in the code".into());
    }
    checks::all_or_nothing(&complaints)
}

/// The kinds that stand in such quotes.
fn kinds(text: &str, quote: char) -> BTreeSet<String> {
    let is_kind = |word: &&str| {
        word.split_once('.').is_some_and(|(group, name)| {
            let ordinary = |letter: char| letter.is_ascii_lowercase() || letter == '_';
            GROUPS.contains(&group) && !name.is_empty() && name.chars().all(ordinary)
        })
    };
    text.lines().flat_map(|line| line.split(quote)).filter(is_kind).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_their_group_and_their_quotes() {
        let code = r#"tell("node.dead", "lease.x1", "other.dead", "node."); // `lease.lost`"#;
        assert_eq!(kinds(code, '"'), BTreeSet::from(["node.dead".to_owned()]));
        assert_eq!(kinds("| `lease.lost`, `node.dead` |", '`').len(), 2);
    }
}

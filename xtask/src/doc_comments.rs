//! That doc comments say what they define: at least nine in ten begin with a verb or a noun, none has an empty list of
//! errors, and none is only the name of its item.

use crate::checks;
use orion_console::{Failure, Outcome, terminal};

/// The least share of doc comments that begin as the rule says, in percent.
const SHARE_MIN: usize = 90;

/// First words that are neither a verb nor a noun.
const NEITHER: &str = " about above after also another anybody anything as at because before below beside between both by \
    down everybody everything for from here how if in it its less let like more never no nobody none not nothing of on once \
    only or over since so somebody something that their them then there these they this those to until up what when where \
    whether which while who whom whose why with without yet ";

/// Words that may stand before the name of an item, and the empty one.
const KEYWORDS: &str = "  pub crate super in async const unsafe static fn struct enum trait type mut ";

/// Counts the doc comments of the Rust files by their first words.
///
/// # Errors
/// Names the comments that begin otherwise when they are more than a tenth, each empty list of errors, and each comment
/// that only repeats a name.
pub fn check() -> Outcome {
    let (mut all, mut wrong, mut empty) = (0, Vec::new(), Vec::new());
    for path in checks::files()?.iter().filter(|path| path.extension().is_some_and(|kind| kind == "rs")) {
        for (line, comment, item) in comments(&checks::read(path)?) {
            all += 1;
            let place = format!("{}:{line}: {comment}", path.display());
            if has_empty_errors(&comment) {
                empty.push(format!("{place}: say when it fails, or leave the section out"));
            }
            if repeats(&comment, &item) {
                empty.push(format!("{place}: it only repeats the name; say shape, unit or meaning"));
            }
            if !begins_well(&comment) {
                wrong.push(place);
            }
        }
    }
    let share = (all - wrong.len()) * 100 / all.max(1);
    terminal::note(&format!(
        "{share} % of {all} doc comments begin with a verb or a noun, {SHARE_MIN} % at least"
    ));
    checks::all_or_nothing(&empty)?;
    if share < SHARE_MIN { Err(Failure::new(wrong.join("\n"))) } else { Ok(()) }
}

/// The doc comments of a source, each with the number of its first line and the first line of its item, attributes passed
/// over; its lines are kept, without `///`.
fn comments(source: &str) -> Vec<(usize, String, String)> {
    let mut found: Vec<(usize, String, String)> = Vec::new();
    let mut follows = false;
    for (text, line) in source.lines().zip(1..) {
        let code = text.trim();
        let text = code.strip_prefix("///").filter(|rest| !rest.starts_with('/')).map(str::trim);
        match (text, found.last_mut()) {
            (Some(text), Some((_, comment, _))) if follows => *comment += &format!("\n{text}"),
            (Some(text), _) => found.push((line, text.to_owned(), String::new())),
            (None, Some((_, _, item))) if item.is_empty() && !code.starts_with("#[") => code.clone_into(item),
            (None, _) => {}
        }
        follows = text.is_some();
    }
    found
}

fn begins_well(comment: &str) -> bool {
    let word = comment.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty()).unwrap_or("it");
    !NEITHER.contains(&format!(" {} ", word.to_lowercase()))
}

/// Whether a sentence is only an article and the name of the item; what stands in backticks is another name of it.
fn repeats(comment: &str, item: &str) -> bool {
    let said = comment.strip_suffix('.').unwrap_or_default().split_whitespace();
    let said: String = said.filter(|word| !["The", "A", "An", "One"].contains(word)).collect();
    let mut words = item.split(|c: char| !c.is_alphanumeric() && c != '_');
    let name = words.find(|word| !KEYWORDS.contains(&format!(" {word} "))).unwrap_or_default();
    !said.is_empty() && said.to_lowercase() == name.replace('_', "").to_lowercase()
}

/// Whether a section of errors says no more than the error's type, which stands in the signature.
fn has_empty_errors(comment: &str) -> bool {
    let Some((_, section)) = comment.split_once("# Errors") else { return false };
    let text = section.split("\n# ").next().unwrap_or_default().trim().trim_end_matches('.');
    text.is_empty() || (text.starts_with("[`") && text.ends_with("`]") && !text.contains(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_its_lines_and_begins_with_a_verb_or_a_noun() {
        let source = "/// One.\n/// Two.\nfn a() {}\n    /// Three.\n    #[x]\n    /// Four.\n//// none\n";
        let found = |line, comment: &str, item: &str| (line, comment.to_owned(), item.to_owned());
        let expected =
            [found(1, "One.\nTwo.", "fn a() {}"), found(4, "Three.", ""), found(6, "Four.", "//// none")];
        assert_eq!(comments(source), expected);
        assert!(
            ["Returns it.", "Number of tries.", "`ssh -o`", "[`Store`] of it"].iter().all(|c| begins_well(c))
        );
        assert!(!["What it is.", "Its number.", "When.", "", "`How`"].iter().any(|c| begins_well(c)));
    }

    #[test]
    fn a_comment_that_is_only_the_name_is_found() {
        assert!(
            repeats("The node.", "pub(crate) node: NodeId,") && repeats("One link.", "pub struct Link {")
        );
        assert!(repeats("The next uid.", "next_uid: Change<u32>,"));
        assert!(!repeats("Number of the node.", "pub node: NodeId,") && !repeats("`always`.", "Always,"));
    }

    #[test]
    fn errors_that_name_a_type_alone_are_empty() {
        let is_empty = |errors: &str| has_empty_errors(&format!("Reads it.\n\n# Errors\n{errors}"));
        assert!(is_empty("[`StoreError`].") && is_empty("[`Broken`]\n\n# Panics\nNever.") && is_empty(""));
        assert!(!is_empty("[`StoreError`]; the next call goes on.") && !is_empty("When it cannot be read."));
        assert!(!has_empty_errors("Reads it."));
    }
}

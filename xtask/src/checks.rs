//! Rules of the repository that no compiler knows: how long a file may be, that the documents name only what
//! exists, that shell scripts are sound.

use crate::generated;
use orion_console::{Failure, Outcome, failed_to, process, repo};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Largest number of lines of a file.
const LINES_MAX: usize = 600;

/// Largest number of lines of all Rust files of xtask: the repository's own tooling stays small.
const XTASK_LINES_MAX: usize = 1_400;

/// Kinds of files that people write and read.
const WRITTEN: [&str; 12] =
    ["rs", "sh", "sql", "yml", "yaml", "toml", "md", "html", "css", "js", "ts", "tsx"];

/// The documents with tables whose last cells name tests.
const TESTED: [&str; 2] = ["docs/ARCHITECTURE.md", "docs/RELIABILITY.md"];

/// Every file of the repository that is not ignored, also what is not committed yet; relative to the root.
///
/// # Errors
/// When this is no git repository.
pub fn files() -> Outcome<Vec<PathBuf>> {
    let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let list = process::capture(Command::new("git").args(words).current_dir(repo::root()))?;
    let paths = list.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(paths.filter(|path| repo::root().join(path).is_file()).collect())
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// A file of the repository.
pub fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(repo::root().join(path)).map_err(failed_to(format!("read {}", path.display())))
}

/// A failure of all complaints, if there are any.
pub fn all_or_nothing(complaints: &[String]) -> Outcome {
    match complaints.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(complaints.join("\n"))),
    }
}

/// Checks that no file is longer than 600 lines, but for `init.sql`: it is all migrations in one file; and that xtask
/// is within its limit.
pub fn file_lengths() -> Outcome {
    let (mut complaints, mut xtask) = (Vec::new(), 0);
    let written = |path: &&PathBuf| {
        WRITTEN.contains(&extension(path)) && !generated::FILES.iter().any(|file| Path::new(file) == *path)
    };
    for path in files()?.iter().filter(written) {
        let lines = read(path)?.lines().count();
        if lines > LINES_MAX && !path.ends_with("init.sql") {
            complaints.push(format!("{}: {lines} lines, {LINES_MAX} at most: split it", path.display()));
        }
        xtask += if path.starts_with("xtask") && extension(path) == "rs" { lines } else { 0 };
    }
    if xtask > XTASK_LINES_MAX {
        complaints.push(format!("xtask: {xtask} lines, {XTASK_LINES_MAX} at most: simplify it"));
    }
    all_or_nothing(&complaints)
}

/// Every path that a document names in backticks exists, and so does every test in the table of invariants and in those
/// of faults.
///
/// # Errors
/// Names the document, the line, and what is not there.
pub fn documents() -> Outcome {
    let files = files()?;
    let known = Known::new(&files);
    let mut complaints = Vec::new();
    for path in files.iter().filter(|path| extension(path) == "md") {
        let base = path.parent().unwrap_or(Path::new(""));
        for (number, name) in paths_named(&read(path)?, &known) {
            if !known.holds(base, &name) {
                complaints.push(format!("{}:{number}: there is no `{name}`", path.display()));
            }
        }
    }
    let tests = tests_of(&files)?;
    for document in TESTED {
        let rows = rows(&read(Path::new(document))?);
        if rows.is_empty() {
            complaints.push(format!("{document} has no table whose rows name tests"));
        }
        for (line, name, named) in rows {
            if named.is_empty() {
                complaints.push(format!("{document}:{line}: {name} names no test"));
            }
            for test in named.iter().filter(|test| !tests.contains(*test)) {
                complaints.push(format!("{document}:{line}: {name}: there is no test `{test}`"));
            }
        }
    }
    all_or_nothing(&complaints)
}

/// shellcheck finds nothing in the scripts. Files of functions that are no programs by themselves (no `#!`)
/// are compiled into the playbooks, which have tests of their own.
pub fn shell_scripts() -> Outcome {
    let mut scripts = Vec::new();
    for path in files()? {
        let may_be = extension(&path).is_empty() || extension(&path) == "sh";
        if may_be && read(&path).is_ok_and(|text| is_shell_script(&text)) {
            scripts.push(path);
        }
    }
    process::run(Command::new("shellcheck").args(scripts).current_dir(repo::root()))
}

fn is_shell_script(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("#!").is_some_and(|interpreter| {
        let words: Vec<&str> = interpreter.split(['/', ' ']).collect();
        words.contains(&"sh") || words.contains(&"bash")
    })
}

/// The names of all test functions: `fn NAME` below a `#[test]` or `#[…::test…]`, or one that stands, alone on
/// a line, in the list of a macro that makes it one (each test of the store runs on two databases).
fn tests_of(files: &[PathBuf]) -> Outcome<HashSet<String>> {
    let mut tests = HashSet::new();
    for path in files.iter().filter(|path| extension(path) == "rs") {
        tests.extend(tests_in(&read(path)?));
    }
    Ok(tests)
}

fn tests_in(source: &str) -> Vec<String> {
    let listed: HashSet<&str> = source.lines().filter_map(|line| line.trim().strip_suffix(',')).collect();
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            let attribute = line.trim_start_matches("#[").split(['(', ']', ' ']).next().unwrap_or_default();
            is_test |= attribute.rsplit("::").next() == Some("test");
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if is_test || listed.contains(name) {
                tests.push(name.to_owned());
            }
            is_test = false;
        }
    }
    tests
}

/// A row of a table whose last cell names tests: its line, its first cell, the tests.
type Row = (usize, String, Vec<String>);

/// The rows of the tables whose last column is headed `test`, each named by its first cell; their tests are the
/// backticked names in the last cell that are no paths.
fn rows(text: &str) -> Vec<Row> {
    let mut found = Vec::new();
    let mut head: Option<(bool, usize)> = None;
    for (line, number) in text.lines().zip(1..) {
        let Some(row) = line.trim().strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            head = None;
            continue;
        };
        let (name, last) = (row.split('|').next().unwrap_or_default(), row.rsplit('|').next());
        let last = last.unwrap_or_default().trim();
        let (names_tests, began) = *head.get_or_insert((last == "test", number));
        // Below the head there is the line of dashes.
        if names_tests && number > began + 1 {
            let names = quoted_in(last).filter(|word| !word.contains(['/', '.']));
            let tests = names.filter_map(|word| word.rsplit("::").next().map(str::to_owned)).collect();
            found.push((number, name.trim().to_owned(), tests));
        }
    }
    found
}

/// Returns the texts between backticks.
fn quoted_in(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Words in backticks that are paths of this repository, with their lines; code blocks are not looked at.
fn paths_named(text: &str, known: &Known) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    let mut in_code = false;
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            for word in quoted_in(line) {
                let path = word.split_once(':').map_or(word, |(path, _)| path);
                if known.looks_like_a_path(path) {
                    named.push((number, path.to_owned()));
                }
            }
        }
    }
    named
}

/// The files and directories of the repository.
struct Known {
    paths: HashSet<PathBuf>,
    top: HashSet<String>,
}

impl Known {
    fn new(files: &[PathBuf]) -> Self {
        let paths: HashSet<PathBuf> =
            files.iter().flat_map(|file| file.ancestors()).map(Path::to_path_buf).collect();
        let top = files.iter().filter_map(|file| file.iter().next());
        Self { top: top.map(|name| name.to_string_lossy().into_owned()).collect(), paths }
    }

    /// A relative path with a slash, below something at the top of the repository or with the ending of a
    /// file that people write. `application/json`, `/api/rent` and `GET /x` are none.
    fn looks_like_a_path(&self, word: &str) -> bool {
        let ordinary = |c: char| c.is_ascii_alphanumeric() || "-_./*".contains(c);
        let Some((first, _)) = word.split_once('/') else { return false };
        !first.is_empty()
            && first != "target"
            && word.chars().all(ordinary)
            && (self.top.contains(first) || WRITTEN.contains(&extension(Path::new(word))))
    }

    /// Whether it exists, seen from the root or from the document's own directory. Of a pattern with `*` only
    /// what stands before it is looked at.
    fn holds(&self, base: &Path, name: &str) -> bool {
        let name = match name.split_once('*') {
            Some((before, _)) => before.rsplit_once('/').map_or("", |(directory, _)| directory),
            None => name.trim_end_matches('/'),
        };
        self.paths.contains(Path::new(name)) || self.paths.contains(&base.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_the_repository_that_does_not_exist_is_found_with_its_line() {
        let files =
            ["crates/store/src/lib.rs", "crates/store/migrations/sqlite/0001_a.sql", "docs/adr/0001.md"];
        let known = Known::new(&files.map(PathBuf::from));
        let text = "a\n`crates/store/src/lib.rs:Store::open` and `crates/store/src/gone.rs:12`\n`other/lost.rs`\n\
                    `crates/store/` `crates/store/migrations/mariadb` `crates/*/src` `adr/0001.md`\n\
                    `application/json` `/api/rent` `POST /auth/login` `target/debug/orion` `init` `<a>/b.rs`\n\
                    ```\n`crates/gone`\n```\ncrates/gone";
        let mut missing = paths_named(text, &known);
        missing.retain(|(_, path)| !known.holds(Path::new("docs"), path));
        let gone =
            [(2, "crates/store/src/gone.rs"), (3, "other/lost.rs"), (4, "crates/store/migrations/mariadb")];
        assert_eq!(missing, gone.map(|(line, path)| (line, path.to_owned())));
    }

    #[test]
    fn every_row_of_the_tables_that_name_tests_is_read_and_no_other() {
        let text = "| a | b |\n|---|---|\n| x | `y` |\n\n| | invariant | held by | test |\n|---|---|---|---|\n\
                    | I1 | `one` lease | `z` | `a_node_has_one`, `it::two::a_second_is_refused` in `crates/a.rs` |\n\
                    | I22 | none | the schema | |\n\n| done | test |\n|---|---|\n| a node dies | `it_moves` |\n";
        let row = |line, name: &str, tests: &[&str]| {
            (line, name.to_owned(), tests.iter().map(|&test| test.to_owned()).collect())
        };
        let first = row(7, "I1", &["a_node_has_one", "a_second_is_refused"]);
        assert_eq!(rows(text), [first, row(8, "I22", &[]), row(12, "a node dies", &["it_moves"])]);
    }

    #[test]
    fn only_functions_that_are_tests_count_as_tests() {
        let source = "on_both! {\n    four,\n}\nasync fn four(world: World) {}\nfn helper() {}\n#[test]\nfn one() {}\n    #[tokio::test(flavor = \"x\")]\n    #[expect(x)]\n    \
                      async fn two() {\nfn inner() {}\n#[cfg(test)]\nmod tests {}\nfn three() {}";
        assert_eq!(tests_in(source), ["four", "one", "two"]);
    }

    #[test]
    fn a_script_is_known_by_its_first_line() {
        assert!(["#!/bin/bash\n", "#!/usr/bin/env bash", "#!/bin/sh"].into_iter().all(is_shell_script));
        assert!(!["# functions\n", "#!/usr/bin/python3"].into_iter().any(is_shell_script));
    }
}

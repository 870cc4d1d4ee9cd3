//! The YAML of a playbook, read and checked. What is wrong here is the operator's file, so every error
//! names the place in it. Nothing is compiled or run here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::PlaybookError;

/// Longest value that a playbook may declare, in bytes.
const VALUE_MAX: usize = 4096;

/// Names that a value must not take, because the prelude or the shell uses them.
const RESERVED: &[&str] =
    &["epoch", "first_uid", "PATH", "IFS", "LC_ALL", "HOME", "PWD", "PPID", "OPTIND", "PS1", "PS2", "PS4"];

/// A playbook file as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaybookFile {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) timeout_s: u32,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(default)]
    pub(super) include: Vec<String>,
    #[serde(default)]
    pub(super) detached: Vec<String>,
    #[serde(default)]
    pub(super) values: Vec<ValueSpec>,
    pub(super) steps: Vec<StepSpec>,
}

/// One declared value: its place on the wire is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueSpec {
    pub(super) name: String,
    pub(super) first: Option<String>,
    pub(super) chars: String,
    #[serde(default = "one")]
    pub(super) min: usize,
    pub(super) max: usize,
    #[serde(default)]
    pub(super) secret: bool,
}

/// One named step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepSpec {
    pub(super) name: String,
    pub(super) run: String,
}

const fn one() -> usize {
    1
}

/// The shell functions that playbooks share: `playbooks/lib/NAME.sh`, by NAME.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Library(pub(super) BTreeMap<String, String>);

impl Library {
    /// The files that are built into this program.
    pub fn builtin() -> Self {
        let files = [
            ("accounts", include_str!("../../../../playbooks/lib/accounts.sh")),
            ("door", include_str!("../../../../playbooks/lib/door.sh")),
            ("processes", include_str!("../../../../playbooks/lib/processes.sh")),
            ("leases", include_str!("../../../../playbooks/lib/leases.sh")),
            ("deadline", include_str!("../../../../playbooks/lib/deadline.sh")),
            ("containers", include_str!("../../../../playbooks/lib/containers.sh")),
            ("container_rest", include_str!("../../../../playbooks/lib/container_rest.sh")),
            ("firewall_rules", include_str!("../../../../playbooks/lib/firewall_rules.sh")),
            ("places", include_str!("../../../../playbooks/lib/places.sh")),
            ("boot", include_str!("../../../../playbooks/lib/boot.sh")),
            ("rights", include_str!("../../../../playbooks/lib/rights.sh")),
            ("removal", include_str!("../../../../playbooks/lib/removal.sh")),
            ("uids", include_str!("../../../../playbooks/lib/uids.sh")),
            ("probe_account", include_str!("../../../../playbooks/lib/probe_account.sh")),
            ("way_in", include_str!("../../../../playbooks/lib/way_in.sh")),
        ];
        Self(files.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
    }

    /// Adds a file, or replaces the one of that name.
    pub fn insert(&mut self, name: &str, text: &str) {
        self.0.insert(name.to_owned(), text.to_owned());
    }

    /// The named files, one after the other, without the lines that are only a comment: they would go over
    /// the wire with every run.
    pub(super) fn text(&self, names: &[String]) -> Result<String, PlaybookError> {
        let mut text = String::new();
        for name in names {
            let Some(file) = self.0.get(name) else {
                return Err(PlaybookError::Invalid(format!("there is no library file lib/{name}.sh")));
            };
            if file.contains('\0') {
                return Err(PlaybookError::Invalid(format!("lib/{name}.sh contains a NUL byte")));
            }
            for line in
                file.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
            {
                // Nor what indents it.
                text.push_str(line.trim_start_matches(' '));
                text.push('\n');
            }
        }
        Ok(text)
    }
}

impl PlaybookFile {
    /// Reads and checks one file.
    pub(super) fn read(yaml: &str) -> Result<Self, PlaybookError> {
        let file: Self =
            serde_norway::from_str(yaml).map_err(|error| PlaybookError::Yaml(error.to_string()))?;
        file.check().map_err(PlaybookError::Invalid)?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        if !is_identifier(&self.name) {
            return Err(format!("the name {:?} is not made of a-z, 0-9 and _", self.name));
        }
        if !(1..=3600).contains(&self.timeout_s) {
            return Err(format!("timeout_s is {}, but must be between 1 and 3600 seconds", self.timeout_s));
        }
        let mut names = BTreeSet::new();
        for value in &self.values {
            value.check().map_err(|problem| format!("value {:?}: {problem}", value.name))?;
            if !names.insert(&value.name) {
                return Err(format!("value {:?} is declared twice", value.name));
            }
        }
        if self.steps.is_empty() {
            return Err("it has no steps".to_owned());
        }
        for step in &self.steps {
            if step.name.is_empty() || step.name.len() > 80 || step.name.chars().any(char::is_control) {
                return Err(format!("the step name {:?} is not one line of 1 to 80 characters", step.name));
            }
            if step.run.trim().is_empty() || step.run.contains('\0') {
                return Err(format!("step {:?}: run is empty or contains a NUL byte", step.name));
            }
        }
        Ok(())
    }
}

impl ValueSpec {
    fn check(&self) -> Result<(), String> {
        if !is_identifier(&self.name) {
            return Err("the name is not made of a-z, 0-9 and _".to_owned());
        }
        if RESERVED.contains(&self.name.as_str()) || self.name.starts_with("orion_") {
            return Err("the name is taken by the prelude".to_owned());
        }
        if self.max == 0 || self.max > VALUE_MAX || self.min > self.max {
            return Err(format!(
                "min {} and max {} must be in order and at most {VALUE_MAX}",
                self.min, self.max
            ));
        }
        class_members(&self.chars).map_err(|problem| format!("chars: {problem}"))?;
        if let Some(first) = &self.first {
            class_members(first).map_err(|problem| format!("first: {problem}"))?;
        }
        Ok(())
    }

    /// Describes the problem with `value`, if there is one, without quoting it: the value may be a secret.
    pub(super) fn problem(&self, value: &str) -> Option<String> {
        if value.len() < self.min || value.len() > self.max {
            return Some(format!("has {} characters, not {} to {}", value.len(), self.min, self.max));
        }
        let allowed = class_members(&self.chars).unwrap_or_default();
        if value.bytes().any(|byte| !allowed.contains(&byte)) {
            return Some(format!("has a character outside of [{}]", self.chars));
        }
        let first = self.first.as_deref().map(|class| (class, class_members(class).unwrap_or_default()));
        if let (Some((class, members)), Some(byte)) = (first, value.bytes().next())
            && !members.contains(&byte)
        {
            return Some(format!("does not begin with one of [{class}]"));
        }
        None
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.len() <= 40
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The bytes that a shell bracket class means. Only what every shell reads alike is allowed: printable
/// ASCII, ranges between two letters or two digits, a literal `-` at the end, and none of `[ ] \ ^ !`.
fn class_members(class: &str) -> Result<BTreeSet<u8>, String> {
    let bytes = class.as_bytes();
    if bytes.is_empty() {
        return Err("an empty class allows nothing".to_owned());
    }
    if bytes.iter().any(|byte| !(b' '..=b'~').contains(byte) || b"[]\\^!".contains(byte)) {
        return Err(format!(
            "{class:?} contains one of [ ] \\ ^ ! or a character that is not printable ASCII"
        ));
    }
    let mut members = BTreeSet::new();
    let mut at = 0;
    while let Some(&low) = bytes.get(at) {
        match (bytes.get(at + 1), bytes.get(at + 2)) {
            (Some(b'-'), Some(&high)) => {
                let alike = [u8::is_ascii_lowercase, u8::is_ascii_uppercase, u8::is_ascii_digit]
                    .iter()
                    .any(|is_kind| is_kind(&low) && is_kind(&high));
                if !alike || low > high {
                    return Err(format!(
                        "{class:?} has a range that is not like a-z, A-Z or 0-9; put - last"
                    ));
                }
                members.extend(low..=high);
                at += 3;
            }
            (Some(_) | None, Some(_) | None) => {
                if low == b'-' && at + 1 != bytes.len() {
                    return Err(format!("{class:?}: put the literal - last"));
                }
                members.insert(low);
                at += 1;
            }
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name: hello\ndescription: Says hello.\ntimeout_s: 5\nvalues:\n  - {name: who, first: a-z, chars: 'a-z0-9_-', max: 8}\nsteps:\n  - name: greet\n    run: echo \"$who\"\n";

    fn refused(change: impl Fn(&str) -> String) -> String {
        PlaybookFile::read(&change(GOOD)).expect_err("this file must be refused").to_string()
    }

    #[test]
    fn a_good_file_is_read() {
        let file = PlaybookFile::read(GOOD).expect("it is good");
        assert_eq!((file.name.as_str(), file.timeout_s, file.read_only), ("hello", 5, false));
        assert_eq!((file.values[0].min, file.values[0].max, file.values[0].secret), (1, 8, false));
        assert_eq!(file.steps[0].run, "echo \"$who\"");
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        assert!(refused(|yaml| format!("{yaml}retries: 3\n")).contains("retries"));
        assert!(refused(|yaml| yaml.replace("max: 8", "max: 8, default: x")).contains("default"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        assert!(refused(|yaml| yaml.replace("name: hello", "name: ../hello")).contains("../hello"));
        assert!(refused(|yaml| yaml.replace("timeout_s: 5", "timeout_s: 0")).contains("timeout_s"));
        assert!(refused(|yaml| yaml.replace("name: who", "name: epoch")).contains("prelude"));
        assert!(refused(|yaml| yaml.replace("name: who", "name: orion_x")).contains("prelude"));
        assert!(refused(|yaml| yaml.replace("max: 8", "max: 8000")).contains("4096"));
        assert!(refused(|yaml| yaml.replace("max: 8", "max: 8, min: 9")).contains("min 9"));
        assert!(refused(|yaml| yaml.replace("name: greet", "name: \"a\\nb\"")).contains("one line"));
        assert!(refused(|yaml| yaml.replace("    run: echo \"$who\"\n", "    run: ' '\n")).contains("greet"));
        assert!(
            refused(|yaml| yaml
                .split("steps:")
                .next()
                .map(|head| format!("{head}steps: []\n"))
                .unwrap_or_default())
            .contains("no steps")
        );
        let twice = "  - {name: who, chars: a-z, max: 8}\nsteps:";
        assert!(refused(|yaml| yaml.replace("steps:", twice)).contains("twice"));
    }

    #[test]
    fn a_class_means_the_same_in_every_shell_or_is_refused() {
        let members = class_members("a-c0-1_.-").expect("a good class");
        assert_eq!(members.into_iter().collect::<Vec<_>>(), b"-.01_abc");
        for bad in
            ["", "!a", "^a", "a]b", "[a", "a\\b", "z-a", "a-Z", "--a", "a-c-e-", "+-/", "é", "a\tb", "-ab"]
        {
            assert!(class_members(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_value_is_checked_without_being_quoted() {
        let file = PlaybookFile::read(GOOD).expect("it is good");
        let who = &file.values[0];
        assert_eq!(who.problem("bob_1-x"), None);
        for bad in ["", "123456789", "Bob", "1bob", "bo b", "bob\n", "b\u{e9}b", "b;b"] {
            let problem = who.problem(bad).unwrap_or_else(|| panic!("{bad:?} must be refused"));
            assert!(bad.len() < 2 || !problem.contains(bad), "{problem}");
        }
    }
}

//! From a checked playbook to one POSIX `sh` command line, and from values to what goes in on standard
//! input. The order of things in the script is the safety of it: read everything, check everything, take
//! the lock, check the epoch, and only then the first step.

use std::fmt::Write as _;

use orion_domain::reconcile::FIRST_UID;

use super::PlaybookError;
use super::parse::{Library, PlaybookFile, ValueSpec};

/// Version of the framing on standard input and of the reply stream.
const PROTOCOL: u32 = 1;

/// Largest epoch that a node can compare: a shell counts in signed 64-bit integers.
pub const EPOCH_MAX: u64 = 999_999_999_999_999_999;

/// Runs before anything is read. The reply goes to fd 3, everything else that is printed to stderr.
const BEGIN: &str = r#"set -eu
umask 022
PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
export PATH LC_ALL
unset IFS
cd /
exec 3>&1 1>&2
report() { printf '::report %s\n' "$*" >&3; }
refuse() { orion_status=$1; shift; printf '::why %s\n' "$*" >&3; exit "$orion_status"; }
bad() { printf '::bad %s\n' "$1" >&3; exit 64; }
orion_step() { printf '::step %s\n' "$1" >&3; }
"#;

/// One run at a time on this node. The lock file is root's alone: a tenant who could open it could hold it.
const LOCK: &str = r#"orion_step 'take the lock'
umask 077
if [ ! -d /run/orion ]; then mkdir -p /run/orion; fi
exec 9>>/run/orion/lock
orion_tries=0
until flock -n 9; do
  orion_tries=$((orion_tries + 1))
  if [ "$orion_tries" -gt 50 ]; then exit 75; fi
  sleep 0.1 2>/dev/null || sleep 1
done
"#;

/// An order from an older epoch comes from somebody who has been replaced meanwhile. The second file is read where the
/// first could not be written.
const EPOCH: &str = r#"orion_step 'check the epoch'
orion_epoch=0
for orion_file in /var/lib/orion/epoch /run/orion/epoch; do
  orion_seen=0
  if [ -r "$orion_file" ]; then IFS= read -r orion_seen <"$orion_file" || :; fi
  case $orion_seen in '' | *[!0-9]*) orion_seen=0 ;; esac
  if [ "$orion_seen" -gt "$orion_epoch" ]; then orion_epoch=$orion_seen; fi
done
if [ "$epoch" -lt "$orion_epoch" ]; then
  report epoch "$orion_epoch"
  exit 76
fi
"#;

/// A higher number never has fewer digits, so writing over the old one in place is a single write(2) that
/// leaves either; anything else goes through a rename. On the disk before it counts: after a power cut an older
/// holder must not pass. On a disk that is full or read-only it is kept in memory: there, above all, a login has to be
/// shut.
const STORE_EPOCH: &str = r#"orion_store_epoch() {
  if [ ! -d /var/lib/orion/leases ]; then mkdir -p /var/lib/orion/leases || return; fi
  orion_file=/var/lib/orion/epoch
  case $orion_epoch in
  [1-9]*) if [ -s "$orion_file" ]; then printf '%s\n' "$epoch" 1<>"$orion_file" || return; fi ;;
  esac
  IFS= read -r orion_seen 2>/dev/null <"$orion_file" || orion_seen=
  if [ "$orion_seen" != "$epoch" ]; then
    orion_file=/var/lib/orion/.epoch.new
    printf '%s\n' "$epoch" >"$orion_file" || return
    sync "$orion_file" 2>/dev/null || :
    mv -f "$orion_file" /var/lib/orion/epoch || return
    orion_file=/var/lib/orion
  fi
  sync "$orion_file" 2>/dev/null || :
}
if [ "$epoch" -gt "$orion_epoch" ] || [ ! -e /var/lib/orion/epoch ]; then
  orion_store_epoch || printf '%s\n' "$epoch" >/run/orion/epoch
fi
"#;

/// GNU `timeout` is this shell's parent and ends the whole process group. BusyBox's becomes this shell
/// and, later, ends nothing but this shell: so the steps run beside it, and it passes the signal on.
const RUN: &str = r#"orion_parent=
IFS= read -r orion_parent 2>/dev/null <"/proc/$PPID/comm" || :
if [ "$orion_parent" = timeout ]; then
  orion_steps
else
  trap 'trap "" TERM
    kill -TERM 0
    wait
    (sleep 2; kill -KILL 0) >/dev/null 2>&1 3>&- 9>&- &
    exit 124' TERM
  orion_steps &
  wait "$!" || exit "$?"
fi
"#;

/// The command line of the one exec: no value is in it.
pub(super) fn command_line(file: &PlaybookFile, script: &str) -> String {
    format!("exec timeout -k 5 {} /bin/sh -c {}", file.timeout_s, quote(script))
}

pub(super) fn script(file: &PlaybookFile, library: &Library) -> Result<String, PlaybookError> {
    let mut script = String::with_capacity(16 * 1024);
    script.push_str(BEGIN);
    script.push_str(&first_uid());
    push_reading(&mut script, file);
    for value in &file.values {
        push_check(&mut script, value);
    }
    push_library(&mut script, file, library)?;
    script.push_str("orion_steps() {\n");
    script.push_str(LOCK);
    script.push_str(EPOCH);
    if !file.read_only {
        script.push_str(STORE_EPOCH);
    }
    script.push_str("umask 022\n");
    for step in &file.steps {
        push_line(&mut script, &format!("orion_step {}", quote(&step.name)));
        push_line(&mut script, step.run.trim_end());
    }
    script.push_str("printf '::ok\\n' >&3\n}\n");
    script.push_str(RUN);
    Ok(script)
}

/// The functions of the library, and the script of the detached process. What both have is in the command line once: in a
/// variable, which is read by `eval` here and stands in the detached script.
fn push_library(script: &mut String, file: &PlaybookFile, library: &Library) -> Result<(), PlaybookError> {
    let is_shared = |name: &String| file.include.contains(name) && file.detached.contains(name);
    for (number, name) in file.include.iter().enumerate() {
        let text = library.text(std::slice::from_ref(name))?;
        if is_shared(name) {
            push_line(script, &format!("orion_library{number}={}", quote(&text)));
            push_line(script, &format!("eval \"$orion_library{number}\""));
        } else {
            script.push_str(&text);
        }
    }
    if file.detached.is_empty() {
        return Ok(());
    }
    let mut detached = quote(&first_uid());
    for name in &file.detached {
        let text = library.text(std::slice::from_ref(name))?;
        match file.include.iter().position(|included| included == name) {
            Some(number) => {
                let _ = write!(detached, "\"$orion_library{number}\"");
            }
            None => detached.push_str(&quote(&text)),
        }
    }
    push_line(script, &format!("detached_script={detached}"));
    Ok(())
}

/// Returns the script line that sets `first_uid`; no lease ever had a lower uid.
fn first_uid() -> String {
    format!("first_uid={FIRST_UID}\n")
}

fn push_line(script: &mut String, line: &str) {
    script.push_str(line);
    script.push('\n');
}

/// Reads the header, the epoch, the values and the final dot, or leaves with 66.
fn push_reading(script: &mut String, file: &PlaybookFile) {
    push_line(script, "IFS= read -r orion_line || exit 66");
    push_line(script, &format!("[ \"$orion_line\" = {} ] || exit 66", quote(&header(file))));
    push_line(script, "IFS= read -r epoch || exit 66");
    for value in &file.values {
        push_line(script, &format!("IFS= read -r {} || exit 66", value.name));
    }
    push_line(
        script,
        "IFS= read -r orion_line || exit 66\n[ \"$orion_line\" = . ] || exit 66\nexec </dev/null",
    );
    push_line(script, "case $epoch in '' | *[!0-9]* | 0?* | ???????????????????*) bad epoch ;; esac");
}

/// The same check as [`ValueSpec::problem`], in shell. The class stands in a variable, where no character
/// of it but the bracket's own means anything.
fn push_check(script: &mut String, value: &ValueSpec) {
    let name = &value.name;
    let _ = writeln!(
        script,
        "if [ \"${{#{name}}}\" -lt {} ] || [ \"${{#{name}}}\" -gt {} ]; then bad {name}; fi",
        value.min, value.max
    );
    let _ = writeln!(script, "orion_class={}", quote(&value.chars));
    let _ = writeln!(script, "case ${name} in *[!$orion_class]*) bad {name} ;; esac");
    if let Some(first) = &value.first {
        let _ = writeln!(script, "orion_class={}", quote(first));
        let _ = writeln!(script, "case ${name} in '' | [$orion_class]*) ;; *) bad {name} ;; esac");
    }
}

/// The first line on standard input: protocol and number of values, the epoch included.
fn header(file: &PlaybookFile) -> String {
    format!("orion-playbook {PROTOCOL} {}", file.values.len() + 1)
}

/// Frames the values for standard input. Every declared value exactly once, in any order.
pub(super) fn frame(
    file: &PlaybookFile,
    epoch: u64,
    values: &[(&str, &str)],
) -> Result<Vec<u8>, PlaybookError> {
    if epoch > EPOCH_MAX {
        return Err(PlaybookError::Value {
            name: "epoch".to_owned(),
            problem: format!("is above {EPOCH_MAX}"),
        });
    }
    for (name, _) in values {
        if !file.values.iter().any(|spec| spec.name == *name) {
            return Err(PlaybookError::Value {
                name: (*name).to_owned(),
                problem: "is not declared".to_owned(),
            });
        }
    }
    let mut frame = format!("{}\n{epoch}\n", header(file));
    for spec in &file.values {
        let mut given = values.iter().filter(|(name, _)| *name == spec.name).map(|(_, value)| *value);
        let problem = match (given.next(), given.next()) {
            (Some(value), None) => {
                frame.push_str(value);
                frame.push('\n');
                spec.problem(value)
            }
            (Some(_), Some(_)) => Some("is given twice".to_owned()),
            (None, _) => Some("is missing".to_owned()),
        };
        if let Some(problem) = problem {
            return Err(PlaybookError::Value { name: spec.name.clone(), problem });
        }
    }
    frame.push_str(".\n");
    Ok(frame.into_bytes())
}

/// Quotes a text for a POSIX shell (and for fish) as one word.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: &str = "name: hello\ndescription: d\ntimeout_s: 5\nvalues:\n  - {name: who, chars: a-z, max: 8}\n  - {name: word, chars: 'a-z \"$', min: 0, max: 8, secret: true}\nsteps:\n  - name: it's a step\n    run: echo \"$who\"\n";

    fn echo() -> PlaybookFile {
        PlaybookFile::read(ECHO).expect("it is good")
    }

    #[test]
    fn values_are_framed_in_declared_order() {
        let frame = frame(&echo(), 7, &[("word", ""), ("who", "bob")]).expect("all are there");
        assert_eq!(frame, b"orion-playbook 1 3\n7\nbob\n\n.\n");
    }

    #[test]
    fn a_missing_double_or_undeclared_value_is_refused() {
        let refused = |values: &[(&str, &str)]| frame(&echo(), 7, values).expect_err("refused").to_string();
        assert!(refused(&[("who", "bob")]).contains("word is missing"));
        assert!(refused(&[("who", "bob"), ("who", "eve"), ("word", "")]).contains("who is given twice"));
        assert!(refused(&[("who", "bob"), ("word", ""), ("sudo", "yes")]).contains("sudo is not declared"));
        assert!(frame(&echo(), u64::MAX, &[("who", "bob"), ("word", "")]).is_err());
    }

    #[test]
    fn a_bad_value_is_refused_without_showing_it() {
        for word in ["line\nbreak", "car\rriage", "nul\0byte", "UPPER", "far too long"] {
            let error =
                frame(&echo(), 7, &[("who", "bob"), ("word", word)]).expect_err("refused").to_string();
            assert!(error.contains("word") && !error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_quote_in_the_script_stays_a_quote() {
        assert_eq!(quote("it's"), r"'it'\''s'");
        let line = command_line(&echo(), &script(&echo(), &Library::default()).expect("it compiles"));
        assert!(line.starts_with("exec timeout -k 5 5 /bin/sh -c 'set -eu\n"));
    }

    #[test]
    fn what_steps_and_detached_process_share_is_sent_once_and_reads_alike_in_both() {
        let mut library = Library::default();
        library.insert("own", "own() { printf 'own %s\\n' \"$1\"; }\n");
        library.insert("both", "# said to people only\nquoted='it'\\''s $quoted\n  two  lines'\nboth() {\n  own \"$quoted\"\n}\n");
        library.insert("alone", "main() { both '\\'; }\nmain\n");
        let mut file = echo();
        file.include = vec!["own".to_owned(), "both".to_owned()];
        file.detached = vec!["own".to_owned(), "both".to_owned(), "alone".to_owned()];
        let mut script = String::new();
        push_library(&mut script, &file, &library).expect("it compiles");
        assert_eq!(script.matches("two  lines").count(), 1);
        script.push_str("both; printf '%s' \"$detached_script\"; sh -c \"$detached_script\"");
        let ran =
            std::process::Command::new("/bin/sh").args(["-eu", "-c", &script]).output().expect("it runs");
        let detached = first_uid() + &library.text(&file.detached).expect("they are there");
        let said = "own it's $quoted\ntwo  lines\n";
        assert_eq!(String::from_utf8_lossy(&ran.stdout), format!("{said}{detached}{said}"), "{ran:?}");
    }

    #[test]
    fn an_unknown_library_file_is_named() {
        let mut file = echo();
        file.include = vec!["nowhere".to_owned()];
        let error = script(&file, &Library::default()).expect_err("there is none");
        assert!(error.to_string().contains("lib/nowhere.sh"));
    }
}

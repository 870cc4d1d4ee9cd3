//! What a run of a playbook said, as the caller may act on it. The verdict comes from the exit status; the
//! reply stream says where it was and what it found. Output of a node is hostile text: it is cut, cleaned
//! of control characters and of secrets before anybody sees it.

use super::Playbook;

/// Longest output of a node that is shown, in characters; the end is kept, where tools say what failed.
const OUTPUT_MAX: usize = 2000;

/// Secrets shorter than this are not looked for in the output: "*" is no secret.
const SECRET_MIN: usize = 4;

/// Outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Every step was carried out.
    Done(Report),
    /// A step failed on the node.
    Refused {
        /// The step that failed; `start` when none had begun.
        step: String,
        /// Exit status of the step.
        status: u32,
        /// The end of what it printed, at most 2000 characters, without the secrets.
        output: String,
    },
    /// Refusal of an account that this node cannot take (name or uid in use, uid in a subordinate range);
    /// another node can.
    Unfit {
        /// Reason for the refusal, in words.
        reason: String,
    },
    /// The node has seen a higher epoch: somebody else is in charge of it now, or the database is older than the
    /// node (a backup was restored).
    StaleEpoch {
        /// The node's; 0 when it did not say.
        seen: u64,
    },
    /// The uid of a new lease is not above the highest that the node has seen; nothing was done.
    UidSeen {
        /// Highest uid that the node has seen.
        highest: u32,
    },
    /// The account's name is somebody else's on the node, or the node gives rights or ids of its own to it; no
    /// account was
    /// made.
    NameUnusable {
        /// Reason why the name is unusable, in words.
        reason: String,
    },
    /// Node whose lock another run held, or whose process table was full: try again.
    Busy,
    /// The values did not arrive whole; nothing was done.
    InputIncomplete,
    /// The node refused the value of this name; nothing was done.
    BadValue(String),
    /// The time limit passed; what had been done so far is not known.
    TimedOut {
        /// The step it was in.
        step: String,
    },
    /// Run without an exit status, or with status 0 but without `::ok`: the connection was lost, the outcome
    /// is not known.
    Unknown {
        /// The last step that was announced.
        step: Option<String>,
    },
}

/// Entries that the steps reported, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Key and the rest of the line.
    pub entries: Vec<(String, String)>,
}

impl Report {
    /// The first value of this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(held, _)| held == key).map(|(_, value)| value.as_str())
    }

    /// All values of this key, in order.
    pub fn all<'report>(&'report self, key: &'report str) -> impl Iterator<Item = &'report str> {
        self.entries.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of this key as a number; 0 when there is none.
    pub fn count(&self, key: &str) -> u64 {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Parses the report of `list_users`. Lines that make no sense are an error: acting on half a list would
    /// delete the wrong things.
    pub fn node_inventory(&self) -> Result<NodeInventory, InventoryError> {
        let mut inventory = NodeInventory::default();
        for (key, value) in &self.entries {
            let wrong = || InventoryError { key: key.clone(), value: value.clone() };
            let words: Vec<&str> = value.split_ascii_whitespace().collect();
            match (key.as_str(), words.as_slice()) {
                ("account", [user, uid, state @ ("locked" | "open")]) => {
                    inventory.accounts.push(ListedAccount {
                        user: (*user).to_owned(),
                        uid: uid.parse().map_err(|_| wrong())?,
                        locked: *state == "locked",
                    })
                }
                ("member", [uid]) => inventory.members.push(uid.parse().map_err(|_| wrong())?),
                ("leasefile", [uid]) => inventory.lease_files.push(uid.parse().map_err(|_| wrong())?),
                ("deadline", [uid, seconds]) => inventory
                    .deadlines
                    .push((uid.parse().map_err(|_| wrong())?, seconds.parse().map_err(|_| wrong())?)),
                ("process", [uid]) => inventory.process_uids.push(uid.parse().map_err(|_| wrong())?),
                ("subid", [start, count]) => inventory
                    .subordinate
                    .push((start.parse().map_err(|_| wrong())?, count.parse().map_err(|_| wrong())?)),
                ("containers", [ulid]) => inventory.container_leases.push(((*ulid).to_owned(), None)),
                ("containers", [ulid, seconds]) => inventory
                    .container_leases
                    .push(((*ulid).to_owned(), Some(seconds.parse().map_err(|_| wrong())?))),
                ("boot_id", [boot_id]) => inventory.boot_id = (*boot_id).to_owned(),
                ("highest_uid", [uid]) => inventory.highest_uid = seen_uid(uid).ok_or_else(wrong)?,
                ("deadline_process", [state @ ("started" | "missing")]) => {
                    inventory.deadline_process_was_missing = true;
                    inventory.deadline_process_cannot_start = *state == "missing";
                }
                ("boot_hook", [hook]) => inventory.boot_hook = Some((*hook).to_owned()),
                ("epoch", [epoch]) => inventory.epoch = seen_epoch(epoch).ok_or_else(wrong)?,
                (
                    "account" | "member" | "leasefile" | "deadline" | "process" | "subid" | "boot_id"
                    | "highest_uid" | "epoch" | "deadline_process" | "boot_hook" | "containers",
                    _,
                ) => {
                    return Err(wrong());
                }
                (_, _) => {}
            }
        }
        inventory.process_uids.sort_unstable();
        if inventory.boot_id.is_empty() {
            return Err(InventoryError { key: "boot_id".to_owned(), value: String::new() });
        }
        Ok(inventory)
    }
}

/// State of one node, as `list_users` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInventory {
    /// Members of the group `orion-lease` and accounts with a uid in the asked range.
    pub accounts: Vec<ListedAccount>,
    /// Uids of the members of the group `orion-lease`.
    pub members: Vec<u32>,
    /// Uids that have a lease file.
    pub lease_files: Vec<u32>,
    /// ULIDs of the leases whose containers the node ends at a deadline, with the seconds until then where its file is of
    /// this boot and it has not ended them yet.
    pub container_leases: Vec<(String, Option<i64>)>,
    /// Uids with the seconds until the node itself closes their login (less than 0: it should have), where the lease
    /// file is of this boot.
    pub deadlines: Vec<(u32, i64)>,
    /// Uids in the asked range that have processes, each once, sorted.
    pub process_uids: Vec<u32>,
    /// Subordinate uid and gid ranges: first id and number of ids.
    pub subordinate: Vec<(u32, u32)>,
    /// Whether the process that keeps the deadlines did not run although there are lease files; it was started then, if it could be.
    pub deadline_process_was_missing: bool,
    /// Whether it could not be started, for want of room in /run.
    pub deadline_process_cannot_start: bool,
    /// What starts that process at boot on a node without an agent: `systemd`, `openrc`, `cron` or `none`.
    pub boot_hook: Option<String>,
    /// The kernel's boot id: a new one means that the node was restarted.
    pub boot_id: String,
    /// The highest uid that a lease has had there; 0 when there was none.
    pub highest_uid: u32,
    /// The highest epoch that it has seen.
    pub epoch: u64,
}

/// One account on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedAccount {
    /// Name of the account.
    pub user: String,
    /// Uid of the account.
    pub uid: u32,
    /// Whether logins are locked, by the deadline, a fence or the operator.
    pub locked: bool,
}

/// A line of `list_users` that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the node's list has a line that makes no sense: {key} {value:?}")]
pub struct InventoryError {
    /// The key of the line.
    pub key: String,
    /// The rest of it.
    pub value: String,
}

/// A uid as a node remembers it: one that no uid can be is the largest.
pub(crate) fn seen_uid(text: &str) -> Option<u32> {
    let number = seen_epoch(text)?;
    Some(u32::try_from(number).unwrap_or(u32::MAX))
}

/// An epoch as a node remembers it; what is too large for one is none.
pub(crate) fn seen_epoch(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(0))
}

/// Reads what one run sent back.
///
/// `status` is the exit status, `None` when there was none (connection lost, ended by a signal); `secrets`
/// are the values that must not be shown, whatever the node prints.
pub fn read_reply(
    playbook: &Playbook,
    status: Option<u32>,
    stdout: &[u8],
    stderr: &[u8],
    secrets: &[&str],
) -> Reply {
    let stream = Stream::read(stdout, secrets);
    let step = stream.step.clone();
    match status {
        None => Reply::Unknown { step },
        Some(0) if stream.ok => Reply::Done(Report { entries: stream.entries }),
        Some(0) => Reply::Unknown { step },
        Some(64) => match stream.bad {
            Some(name) => Reply::BadValue(name),
            None => refused(step, 64, stderr, secrets),
        },
        Some(65) => Reply::Unfit {
            reason: reason(
                stream.why,
                stderr,
                secrets,
                "the name or the uid belongs to somebody else on this node",
            ),
        },
        Some(66) => Reply::InputIncomplete,
        Some(67) => Reply::Unfit {
            reason: reason(stream.why, stderr, secrets, "the uid lies in a subordinate range of this node"),
        },
        Some(68) => match stream.first("highest_uid").and_then(seen_uid) {
            Some(highest) => Reply::UidSeen { highest },
            None => refused(step, 68, stderr, secrets),
        },
        Some(72) => Reply::NameUnusable {
            reason: reason(stream.why, stderr, secrets, "the name cannot be used on this node"),
        },
        Some(75) => Reply::Busy,
        Some(76) => Reply::StaleEpoch { seen: stream.first("epoch").and_then(seen_epoch).unwrap_or(0) },
        Some(124 | 137) => Reply::TimedOut { step: step.unwrap_or_else(|| playbook.first_step().to_owned()) },
        Some(other) => match stream.why {
            Some(why) => Reply::Refused { step: step.unwrap_or_else(start), status: other, output: why },
            None => refused(step, other, stderr, secrets),
        },
    }
}

fn start() -> String {
    "start".to_owned()
}

fn refused(step: Option<String>, status: u32, stderr: &[u8], secrets: &[&str]) -> Reply {
    Reply::Refused { step: step.unwrap_or_else(start), status, output: shown(stderr, secrets) }
}

fn reason(why: Option<String>, stderr: &[u8], secrets: &[&str], otherwise: &str) -> String {
    why.or_else(|| Some(shown(stderr, secrets)).filter(|text| !text.is_empty()))
        .unwrap_or_else(|| otherwise.to_owned())
}

/// The lines of the reply stream that begin with `::`; all others are the login shell's own noise.
#[derive(Default)]
struct Stream {
    step: Option<String>,
    entries: Vec<(String, String)>,
    bad: Option<String>,
    why: Option<String>,
    ok: bool,
}

impl Stream {
    fn first(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(held, _)| held == key).map(|(_, value)| value.as_str())
    }

    fn read(stdout: &[u8], secrets: &[&str]) -> Self {
        let mut stream = Self::default();
        // A line without its newline was cut off and is not believed.
        let whole = stdout.iter().rposition(|byte| *byte == b'\n').map_or(&[][..], |end| &stdout[..=end]);
        for line in String::from_utf8_lossy(whole).lines() {
            let Some((word, rest)) =
                line.strip_prefix("::").map(|line| line.split_once(' ').unwrap_or((line, "")))
            else {
                continue;
            };
            match word {
                "step" => stream.step = Some(rest.to_owned()),
                "report" => {
                    let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    stream.entries.push((key.to_owned(), shown(value.as_bytes(), secrets)));
                }
                "bad" => stream.bad = Some(shown(rest.as_bytes(), secrets)),
                "why" => stream.why = Some(shown(rest.as_bytes(), secrets)),
                "ok" => stream.ok = true,
                _ => {}
            }
        }
        stream
    }
}

/// Text of a node as a person may see it.
fn shown(text: &[u8], secrets: &[&str]) -> String {
    let mut text = String::from_utf8_lossy(text).into_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_MIN) {
        text = text.replace(secret, "***");
    }
    let clean: String = text
        .chars()
        .map(|letter| if letter == '\n' || letter == '\t' || !letter.is_control() { letter } else { '?' })
        .collect();
    let clean = clean.trim();
    let length = clean.chars().count();
    clean.chars().skip(length.saturating_sub(OUTPUT_MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playbook() -> Playbook {
        Playbook::parse("name: p\ndescription: d\ntimeout_s: 5\nsteps:\n  - {name: one, run: 'true'}\n")
            .expect("it is good")
    }

    fn reply(status: Option<u32>, stdout: &str, stderr: &str) -> Reply {
        read_reply(&playbook(), status, stdout.as_bytes(), stderr.as_bytes(), &["hunter2"])
    }

    #[test]
    fn only_ok_with_status_zero_is_done() {
        let done = reply(Some(0), "Welcome!\n::step one\n::report files 3\n::report empty\n::ok\n", "");
        let Reply::Done(report) = done else { panic!("{done:?}") };
        assert_eq!((report.count("files"), report.get("empty"), report.count("cron")), (3, Some(""), 0));

        let lost = Reply::Unknown { step: Some("one".to_owned()) };
        assert_eq!(reply(None, "::step one\n::ok\n", ""), lost);
        assert_eq!(reply(Some(0), "::step one\n", ""), lost);
        assert_eq!(reply(Some(0), "::step one\n::ok", ""), lost, "a line that was cut off is not believed");
        assert_eq!(reply(None, "", ""), Reply::Unknown { step: None });
    }

    #[test]
    fn each_status_has_its_meaning() {
        assert_eq!(reply(Some(64), "::bad user\n", ""), Reply::BadValue("user".to_owned()));
        assert_eq!(reply(Some(66), "", ""), Reply::InputIncomplete);
        assert_eq!(reply(Some(75), "", ""), Reply::Busy);
        assert_eq!(reply(Some(76), "::report epoch 12\n", ""), Reply::StaleEpoch { seen: 12 });
        assert_eq!(reply(Some(76), "", ""), Reply::StaleEpoch { seen: 0 });
        let seen = reply(Some(68), "::step one\n::report highest_uid 200017\n::why used\n", "");
        assert_eq!(seen, Reply::UidSeen { highest: 200_017 });
        let beyond = reply(Some(68), "::report highest_uid 9999999999\n", "");
        assert_eq!(beyond, Reply::UidSeen { highest: u32::MAX }, "no uid is that high");
        assert!(matches!(reply(Some(68), "", "why"), Reply::Refused { status: 68, .. }));
        for status in [124, 137] {
            let step = "two".to_owned();
            assert_eq!(reply(Some(status), "::step one\n::step two\n", ""), Reply::TimedOut { step });
        }
        let Reply::Unfit { reason } = reply(Some(65), "::why the name is taken\n", "noise") else { panic!() };
        assert_eq!(reason, "the name is taken");
        let Reply::NameUnusable { reason } = reply(Some(72), "::why sudoers names it\n", "") else {
            panic!()
        };
        assert_eq!(reason, "sudoers names it");
        let Reply::Unfit { reason } = reply(Some(67), "", "") else { panic!() };
        assert!(reason.contains("subordinate"));
    }

    #[test]
    fn a_failed_step_is_named_and_its_output_is_cut_and_scrubbed() {
        let noise = "x".repeat(5000);
        let failed =
            reply(Some(1), "::step one\n", &format!("{noise}\nuseradd: hunter2\u{1b}[2J: No space left\n"));
        let Reply::Refused { step, status, output } = failed else { panic!("{failed:?}") };
        assert_eq!((step.as_str(), status), ("one", 1));
        assert!(output.ends_with("useradd: ***?[2J: No space left"), "{output}");
        assert_eq!(output.chars().count(), 2000);
        let Reply::Refused { step, .. } = reply(Some(127), "", "timeout: not found") else { panic!() };
        assert_eq!(step, "start");
    }

    #[test]
    fn an_inventory_is_read_whole_or_not_at_all() {
        let parse = |lines: &str| {
            let Reply::Done(report) = reply(Some(0), &format!("{lines}::ok\n"), "") else { panic!() };
            report.node_inventory()
        };
        let inventory = parse(
            "::report boot_id b-1\n::report node kernel 6.1\n::report highest_uid 200009\n::report epoch 77\n::report leasefile 200001\n::report subid 100000 65536\n\
             ::report process 200002\n::report process 200001\n::report account alice 200001 locked\n::report account bob 200002 open\n\
             ::report deadline_process started\n::report boot_hook cron\n",
        )
        .expect("every line is good");
        assert_eq!(inventory.boot_id, "b-1");
        assert_eq!((inventory.highest_uid, inventory.epoch), (200_009, 77));
        assert_eq!(inventory.lease_files, [200_001]);
        assert_eq!(inventory.process_uids, [200_001, 200_002]);
        assert_eq!(inventory.subordinate, [(100_000, 65_536)]);
        assert_eq!(
            inventory.accounts[0],
            ListedAccount { user: "alice".to_owned(), uid: 200_001, locked: true }
        );
        assert!(!inventory.accounts[1].locked);
        assert_eq!(
            (inventory.deadline_process_was_missing, inventory.boot_hook.as_deref()),
            (true, Some("cron"))
        );

        let missing = parse("::report boot_id b\n::report deadline_process missing\n").expect("good");
        assert!(missing.deadline_process_was_missing && missing.deadline_process_cannot_start);

        assert!(parse("::report boot_id b\n::report deadline_process lost\n").is_err());
        assert!(parse("::report boot_id b\n::report process many\n").is_err());
        assert!(parse("::report boot_id b\n::report highest_uid -1\n").is_err());
        assert!(parse("::report boot_id b\n::report account alice 200001\n").is_err());
        assert!(parse("::report process 200001\n").is_err(), "a list without a boot id is not a list");
    }
}

//! What one simulated node holds, and how it answers the playbooks: the reply stream and the exit status that the
//! compiled scripts give (see `crates/fleet/src/playbook/mod.rs`).

use super::engine::Engine;
use orion_fleet::playbook::{NOT_KEPT, PlaybookError, Playbooks};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

/// A playbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `create_user`
    Create,
    /// `delete_user`
    Delete,
    /// `set_deadline`
    SetDeadline,
    /// `list_users`
    List,
    /// `probe_login`
    Probe,
    /// `probe_login`, from the file that the node keeps
    ProbeKept,
    /// Keeping that file
    KeepProbe,
    /// `start_container`
    StartContainer,
    /// `keep_containers`
    KeepContainers,
    /// `remove_containers`
    RemoveContainers,
}

/// The command lines that a simulated node knows.
pub struct Orders {
    known: Vec<(String, Order)>,
}

impl Orders {
    /// Returns the orders of the built-in playbooks.
    ///
    /// # Errors
    /// Never with the files of this repository.
    pub fn builtin() -> Result<Self, PlaybookError> {
        let playbooks = Playbooks::builtin()?;
        let known = [
            (playbooks.create_user(), Order::Create),
            (playbooks.delete_user(), Order::Delete),
            (playbooks.set_deadline(), Order::SetDeadline),
            (playbooks.list_users(), Order::List),
            (playbooks.probe_login(), Order::Probe),
            (playbooks.start_container(), Order::StartContainer),
            (playbooks.keep_containers(), Order::KeepContainers),
            (playbooks.remove_containers(), Order::RemoveContainers),
        ];
        let mut known: Vec<_> = known.map(|(playbook, order)| (playbook.command().to_owned(), order)).into();
        let kept = playbooks.probe_login().kept();
        known.push((kept.command(), Order::ProbeKept));
        known.push((kept.keep_command(), Order::KeepProbe));
        Ok(Self { known })
    }

    /// Returns the order whose playbook is run by this command line.
    pub fn of(&self, command: &str) -> Option<Order> {
        self.known.iter().find(|(known, _)| known == command).map(|(_, order)| *order)
    }
}

/// Outcome of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exit status.
    pub status: u32,
    /// The reply stream.
    pub stdout: String,
}

impl Answer {
    fn failed(status: u32, stdout: impl Into<String>) -> Self {
        Self { status, stdout: stdout.into() }
    }

    fn done(report: &str) -> Self {
        Self { status: 0, stdout: format!("::step simulated\n{report}::ok\n") }
    }
}

/// State of one node.
#[derive(Debug, Default)]
pub struct Machine {
    accounts: BTreeMap<u32, String>,
    epoch: u64,
    /// The highest uid of a lease, and that lease's ULID.
    highest: Option<(u32, String)>,
    keeps_probe: bool,
    /// Ends of the containers of leases, by the leases' ULIDs.
    kept: BTreeMap<String, Instant>,
    /// Its container engine.
    pub engine: Engine,
}

impl Machine {
    /// Returns the number of lease accounts on the node.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Returns the node's memory, as [`orion_fleet::MEMORY_COMMAND`] prints it.
    pub fn memory(&self) -> Answer {
        let epoch = if self.epoch == 0 { String::new() } else { format!("{}\n", self.epoch) };
        let highest = self.highest.as_ref().map(|(uid, ulid)| format!("{uid} {ulid}\n")).unwrap_or_default();
        let stdout = epoch + &highest;
        Answer { status: 0, stdout }
    }

    /// Carries a playbook out; `input` is all that came on standard input.
    pub fn run(&mut self, order: Order, input: &[u8]) -> Answer {
        match order {
            Order::KeepProbe => {
                self.keeps_probe = true;
                return Answer { status: 0, stdout: String::new() };
            }
            Order::ProbeKept if !self.keeps_probe => return Answer::failed(NOT_KEPT, ""),
            Order::Create
            | Order::Delete
            | Order::SetDeadline
            | Order::List
            | Order::Probe
            | Order::ProbeKept
            | Order::StartContainer
            | Order::KeepContainers
            | Order::RemoveContainers => {}
        }
        let Some((epoch, values)) = std::str::from_utf8(input).ok().and_then(read_input) else {
            return Answer::failed(66, "");
        };
        if epoch < self.epoch {
            return Answer::failed(76, format!("::step check the epoch\n::report epoch {}\n", self.epoch));
        }
        if !matches!(order, Order::List | Order::Probe | Order::ProbeKept) {
            self.epoch = epoch;
        }
        match (order, values.as_slice()) {
            (Order::Create, [user, uid, _lease, ulid, is_new, _hash, _key, _deadline, _agent]) => {
                self.create(user, uid, ulid, *is_new == "yes")
            }
            (Order::Delete, [_user, uid]) => match uid.parse() {
                Ok(uid) => {
                    self.accounts.remove::<u32>(&uid);
                    Answer::done("::report processes 0\n::report files 0\n")
                }
                Err(_) => Answer::failed(64, "::bad uid\n"),
            },
            (Order::SetDeadline, [_user, uid, _deadline, _agent, _hash]) => match uid.parse() {
                Ok(uid) if self.accounts.contains_key::<u32>(&uid) => Answer::done(""),
                Ok(_) => Answer::failed(70, "::step read the account\n::why there is no such account\n"),
                Err(_) => Answer::failed(64, "::bad uid\n"),
            },
            (Order::List, [uid_min, uid_max]) => self.list(uid_min, uid_max),
            (Order::Probe | Order::ProbeKept, []) => Answer::done("::report way_in open\n"),
            (Order::StartContainer, [_lease, ulid, container, deadline_s, _agent, ..]) => {
                self.keep(ulid, deadline_s);
                if self.engine.start(container) {
                    return Answer::done("::report started yes\n");
                }
                Answer::failed(69, format!("::why there is no container {container}\n"))
            }
            (Order::KeepContainers, [_lease, ulid, deadline_s, _agent, ..]) => {
                self.keep(ulid, deadline_s);
                Answer::done("")
            }
            (Order::RemoveContainers, [ulid, _grace_s]) => {
                self.kept.remove(*ulid);
                Answer::done("")
            }
            (
                Order::Create
                | Order::Delete
                | Order::SetDeadline
                | Order::List
                | Order::Probe
                | Order::ProbeKept
                | Order::KeepProbe
                | Order::StartContainer
                | Order::KeepContainers
                | Order::RemoveContainers,
                _,
            ) => Answer::failed(66, ""),
        }
    }

    fn create(&mut self, user: &str, uid: &str, ulid: &str, is_new: bool) -> Answer {
        let Ok(uid) = uid.parse::<u32>() else { return Answer::failed(64, "::bad uid\n") };
        let used =
            self.highest.as_ref().filter(|(highest, of)| uid < *highest || (uid == *highest && ulid != of));
        if let Some((highest, _)) = used.filter(|_| is_new) {
            return Answer::failed(
                68,
                format!("::report highest_uid {highest}\n::why the uid {uid} was used\n"),
            );
        }
        let taken = self.accounts.iter().any(|(held, name)| (*held == uid) != (name == user));
        if taken {
            return Answer::failed(65, format!("::why {user} or {uid} exists on this node\n"));
        }
        if self.highest.as_ref().is_none_or(|(highest, _)| uid > *highest) {
            self.highest = Some((uid, ulid.to_owned()));
        }
        self.accounts.insert(uid, user.to_owned());
        Answer::done("")
    }

    fn keep(&mut self, ulid: &str, deadline_s: &str) {
        let left = Duration::from_secs(deadline_s.parse().unwrap_or_default());
        self.kept.insert(ulid.to_owned(), Instant::now() + left);
    }

    fn list(&self, uid_min: &str, uid_max: &str) -> Answer {
        let (Ok(first), Ok(last)) = (uid_min.parse::<u32>(), uid_max.parse::<u32>()) else {
            return Answer::failed(64, "::bad uid_min\n");
        };
        let highest = self.highest.as_ref().map_or(0, |(uid, _)| *uid);
        let mut report = format!(
            "::report boot_id 00000000-0000-4000-8000-000000000000\n::report highest_uid {highest}\n\
             ::report epoch {}\n",
            self.epoch
        );
        for (uid, user) in self.accounts.iter().filter(|(uid, _)| (first..=last).contains(*uid)) {
            // writing to a String cannot fail
            let _ = writeln!(report, "::report leasefile {uid}\n::report account {user} {uid} open");
        }
        for (ulid, until) in &self.kept {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            let _ = writeln!(report, "::report containers {ulid} {left}");
        }
        Answer::done(&report)
    }
}

/// The epoch and the values; none if the input is not whole.
fn read_input(text: &str) -> Option<(u64, Vec<&str>)> {
    let mut lines = text.strip_suffix("\n.\n")?.split('\n');
    let count = lines.next()?.strip_prefix("orion-playbook 1 ")?.parse::<usize>().ok()?;
    let epoch = lines.next()?.parse().ok()?;
    let values: Vec<&str> = lines.collect();
    // the epoch is one of them
    (values.len() + 1 == count).then_some((epoch, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_fleet::playbook::EPOCH_MAX;

    fn input(epoch: u64, values: &[&str]) -> Vec<u8> {
        let lines: String = values.iter().map(|value| format!("{value}\n")).collect();
        format!("orion-playbook 1 {}\n{epoch}\n{lines}.\n", values.len() + 1).into_bytes()
    }

    fn create(machine: &mut Machine, epoch: u64, user: &str, uid: &str) -> u32 {
        let values = [user, uid, "1", "01K0000000000000000000000A", "no", "$6$x$y", "", "3600", "no"];
        machine.run(Order::Create, &input(epoch, &values)).status
    }

    #[test]
    fn an_account_is_made_listed_and_removed() {
        let mut machine = Machine::default();
        assert_eq!(create(&mut machine, 7, "alice", "200001"), 0);
        assert_eq!(create(&mut machine, 7, "alice", "200001"), 0, "again");
        let list = machine.run(Order::List, &input(7, &["200000", "300000"]));
        assert!(list.stdout.contains("::report account alice 200001 open\n"), "{}", list.stdout);
        assert!(machine.run(Order::Probe, &input(EPOCH_MAX, &[])).stdout.contains("way_in open"));
        assert_eq!(machine.run(Order::ProbeKept, &input(EPOCH_MAX, &[])).status, NOT_KEPT);
        assert_eq!(machine.run(Order::KeepProbe, b"set -eu").status, 0);
        assert!(machine.run(Order::ProbeKept, &input(EPOCH_MAX, &[])).stdout.contains("way_in open"));
        assert_eq!(machine.run(Order::Delete, &input(7, &["alice", "200001"])).status, 0);
        assert_eq!(machine.accounts(), 0);
    }

    #[test]
    fn an_older_epoch_is_refused() {
        let mut machine = Machine::default();
        assert_eq!(create(&mut machine, 7, "alice", "200001"), 0);
        assert_eq!(create(&mut machine, 6, "alice", "200001"), 76);
    }

    #[test]
    fn a_name_or_a_uid_that_is_taken_is_refused() {
        let mut machine = Machine::default();
        assert_eq!(create(&mut machine, 1, "alice", "200001"), 0);
        assert_eq!(create(&mut machine, 1, "alice", "200002"), 65);
        assert_eq!(create(&mut machine, 1, "bob", "200001"), 65);
    }

    #[test]
    fn a_uid_that_was_used_is_refused_for_a_new_lease_and_remembered() {
        let mut machine = Machine::default();
        assert_eq!(machine.memory().stdout, "");
        let mut create = |uid: &str, ulid: &str, is_new: &str| {
            let values = ["alice", uid, "1", ulid, is_new, "$6$x$y", "", "3600", "no"];
            let status = machine.run(Order::Create, &input(3, &values)).status;
            machine.run(Order::Delete, &input(3, &["alice", uid]));
            (status, machine.memory().stdout)
        };
        let memory = "3\n200007 01J\n".to_owned();
        assert_eq!(create("200007", "01J", "yes"), (0, memory.clone()));
        assert_eq!(create("200007", "01J", "yes"), (0, memory.clone()), "again");
        assert_eq!(create("200007", "01K", "yes"), (68, memory.clone()));
        assert_eq!(create("200006", "01K", "yes"), (68, memory.clone()));
        assert_eq!(create("200006", "01K", "no"), (0, memory.clone()), "it was elsewhere before");
        let read = orion_fleet::read_memory(memory.as_bytes());
        assert_eq!((read.epoch, read.highest_uid), (3, 200_007));
    }

    #[test]
    fn a_truncated_input_is_refused() {
        let mut machine = Machine::default();
        let values = ["alice", "200001", "1", "01K0000000000000000000000A", "no", "$6$x$y", "", "3600", "no"];
        let whole = input(1, &values);
        for length in 0..whole.len() {
            assert_eq!(machine.run(Order::Create, &whole[..length]).status, 66, "{length} bytes");
        }
        assert_eq!(machine.run(Order::Create, &whole).status, 0);
    }
}

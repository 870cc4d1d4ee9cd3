//! What a machine with accounts, ids, processes and files of others holds of them, all in the range of Orion's uids.

use orion_testkit::Worker;

/// Accounts, processes and files on a worker of the kind `foreign` that are not Orion's.
pub struct Foreign<'a> {
    worker: &'a Worker,
    before: String,
}

impl<'a> Foreign<'a> {
    /// Processes begin anew with each boot, so they are told by what they run.
    const LOOK: &'static str = "ps -eo uid=,args= | grep -E ' sleep [0-9]{8}' | sort; cat /etc/passwd /etc/group \
         /etc/subuid /etc/subgid /var/lib/extrausers/* | grep -Ev '^[^:]*:[^:]*:2000[0-9][0-9]:|^orion-(lease|probe)'; \
         getent passwd lena; find / \\( -path /proc -o -path /sys -o -path /usr \\) -prune -o \
         \\( -uid 300017 -o -uid 250001 -o -uid 1000017 \\) -printf '%p %U:%G %m %s\\n' | sort";

    /// Records what is there now.
    pub fn on(worker: &'a Worker) -> Self {
        let before = worker.sh(Self::LOOK);
        let seen =
            ["300017 sleep 3", "1000017 sleep 1", "250001 sleep 2", "/home/lena/thesis", "/tmp/lena-scratch"];
        for thing in
            seen.iter().chain(&["/dev/shm/container-shared", "Build.Bot:x", "/var/tmp/container-cache"])
        {
            assert!(
                before.contains(thing),
                "{thing} is not there before Orion does anything more:\n{before}"
            );
        }
        Self { worker, before }
    }

    /// Asserts that all of it is still there, as it was.
    pub fn is_untouched(&self) {
        assert_eq!(self.worker.sh(Self::LOOK), self.before, "what is not Orion's");
    }
}

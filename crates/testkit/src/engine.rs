//! The container engine of a worker: waiting for it, images for it, its faults.

use std::time::Duration;

use crate::host::messages;
use crate::wait::wait_until_blocking;
use crate::worker::Worker;

impl Worker {
    /// Waits until the worker's Docker engine answers.
    ///
    /// # Panics
    /// When it does not within 30 s; with the end of its log.
    pub fn wait_for_engine(&self) {
        let what = format!("the engine of {} answers", self.name());
        wait_until_blocking(&what, Duration::from_secs(30), || {
            let asked = self.try_sh(
                "timeout 5 docker version >/dev/null 2>&1 || { tail -n 5 /var/log/dockerd.log; false; }",
            );
            if asked.status.success() { Ok(()) } else { Err(messages(&asked)) }
        });
    }

    /// Makes an image of Debian's static BusyBox, with all its commands.
    ///
    /// # Panics
    /// When the engine does not take it.
    pub fn make_image(&self, name: &str) {
        self.sh(&format!(
            "d=$(mktemp -d) && mkdir -p $d/bin $d/tmp $d/etc && cp /bin/busybox $d/bin/ && \
             for a in $(/bin/busybox --list); do [ $a = busybox ] || ln -s busybox $d/bin/$a; done && \
             echo root:x:0:0::/:/bin/sh >$d/etc/passwd && echo {name} >$d/etc/image && \
             tar -C $d -c . | docker import -c 'CMD [\"sh\"]' - {name} && rm -r $d"
        ));
    }

    /// Kills the engine; it stays down until [`Worker::start_engine`]. Its containers go on.
    pub fn stop_engine(&self) {
        self.sh(": >/run/no-engine-restart; pkill -KILL -x dockerd; pkill -KILL -x containerd; \
                 while pgrep -x dockerd >/dev/null; do sleep 0.01; done");
    }

    /// Ends [`Worker::stop_engine`]; returns when the engine answers.
    pub fn start_engine(&self) {
        self.sh("rm -f /run/no-engine-restart");
        self.wait_for_engine();
    }

    /// Stops the engine in place: connections are taken, and nothing is answered.
    pub fn freeze_engine(&self) {
        self.sh("pkill -STOP -x dockerd");
    }

    /// Ends [`Worker::freeze_engine`].
    pub fn thaw_engine(&self) {
        self.sh("pkill -CONT -x dockerd");
    }
}

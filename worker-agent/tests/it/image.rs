//! Installing into a system that does not run, and what is refused before anything is changed.

use crate::{
    agent::{binary, run},
    control_plane::{CA, JOIN_TOKEN},
};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

/// A directory with as much of this machine's system as sshd needs, bound in; gone when dropped.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        for dir in ["etc/ssh/sshd_config.d", "usr", "run", "dev", "var/lib"] {
            fs::create_dir_all(image.path().join(dir)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), image.path().join(link)).unwrap();
        }
        fs::write(
            image.path().join("etc/ssh/sshd_config"),
            "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM no\n",
        )
        .unwrap();
        fs::write(
            image.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
        )
        .unwrap();
        fs::write(image.path().join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
        image
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs the agent in a mount namespace in which the image has /usr and /dev/null.
    fn agent(&self, args: &[&str], stdin: &str) -> Output {
        let script = "mount --make-rprivate /; mount -t overlay usr -o lowerdir=/usr,upperdir=\"$I/.upper\",workdir=\"$I/.work\" \"$I/usr\"\n\
                      : >\"$I/dev/null\"; mount --bind /dev/null \"$I/dev/null\"; exec \"$@\"";
        for dir in [".upper", ".work"] {
            fs::create_dir_all(self.path().join(dir)).unwrap();
        }
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-euc", script, "sh", &binary()])
            .args(args)
            .arg("--root")
            .arg(self.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("I", self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn installed(&self, args: &[&str], stdin: &str) -> String {
        let done = self.agent(args, stdin);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn refused(&self, args: &[&str], stdin: &str) -> String {
        let before = self.tree();
        let done = self.agent(args, stdin);
        assert!(!done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stdout));
        assert_eq!(self.tree(), before, "{args:?} was refused and changed something");
        String::from_utf8(done.stderr).unwrap()
    }

    /// Lists everything in the image; of /usr only the files that are not this machine's (a directory appears
    /// in the upper layer by being looked into).
    fn tree(&self) -> String {
        run(
            "sh",
            &[
                "-c",
                "cd \"$0\" && { find etc var run; find .upper ! -type d; } | sort | xargs stat -c '%N %A' ",
                self.path().to_str().unwrap(),
            ],
        )
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap()
    }
}

#[test]
fn an_image_is_installed_into_without_starting_anything_and_is_as_before_afterwards() {
    for init in ["systemd", "openrc"] {
        let image = Image::new();
        image.agent(&["uninstall"], "");
        let bare = image.tree();
        let ca = image.path().join("ca.pub");
        fs::write(&ca, format!("{CA}\n")).unwrap();
        let args =
            ["install", "--api", "https://orion.example", "--ssh-ca", ca.to_str().unwrap(), "--init", init];
        let said = image.installed(&args, "");
        assert!(said.contains("note: no join token is in the image"), "{said}");
        assert!(said.contains("not started: it starts when the image boots"), "{said}");
        assert_eq!(image.read("etc/ssh/orion/user_ca.pub"), format!("{CA}\n"));
        assert!(
            image
                .read("etc/ssh/sshd_config.d/00-orion.conf")
                .contains("\nTrustedUserCAKeys /etc/ssh/orion/user_ca.pub\n")
        );
        let link = match init {
            "systemd" => "etc/systemd/system/multi-user.target.wants/orion-agent.service",
            _ => "etc/runlevels/default/orion-agent",
        };
        let target = fs::read_link(image.path().join(link)).unwrap();
        assert!(image.path().join(target.strip_prefix("/").unwrap()).is_file());
        assert!(!image.installed(&args, "").contains("wrote"));
        assert!(image.installed(&args, &format!("{JOIN_TOKEN}\n")).contains("wrote    ".to_owned().as_str()));
        assert_eq!(image.read("etc/orion/join-token"), format!("{JOIN_TOKEN}\n"));
        image.installed(&["uninstall"], "");
        assert_eq!(image.tree(), bare);
    }
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_changed() {
    let image = Image::new();
    image.agent(&["uninstall"], "");
    let api = ["install", "--api", "https://orion.example"];
    for (args, expected) in [
        (vec!["install"], "no control plane is named\nhint: orion-agent install --api"),
        (vec!["install", "--api", "orion.example"], "is no address of a control plane"),
        (vec!["install", "--api", "http://10.0.0.1"], "plain http to another machine"),
        ([&api[..], &["--join-token-file", "/no/such/file"]].concat(), "cannot be read from /no/such/file"),
        (
            [&api[..], &["--join-token-file", "/dev/null"]].concat(),
            "not one line of printable characters (in /dev/null)",
        ),
        ([&api[..], &["--join-token-file", "-"]].concat(), "(on standard input)"),
        ([&api[..], &["--api-ca", "/etc/passwd"]].concat(), "hint: --api-ca takes"),
        ([&api[..], &["--ssh-ca", "/etc/hostname"]].concat(), "no public key"),
        ([&api[..], &["--state-dir", "/elsewhere"]].concat(), "usual places"),
        (vec!["install", "--api", "https://orion.example/a'b"], "cannot hold"),
    ] {
        let said = image.refused(&args, "");
        assert!(said.contains(expected) && said.contains("hint:"), "{args:?}: {said}");
    }
    fs::write(image.path().join("etc/ssh/sshd_config"), "NoSuchKeyword\n").unwrap();
    let said = image.refused(&api, "");
    assert!(said.contains("must be repaired first") && said.contains("NoSuchKeyword"), "{said}");
}

#[test]
fn a_system_without_sshd_and_one_that_is_no_system_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    let install = || {
        let done = Command::new(binary())
            .args(["install", "--api", "https://x.example", "--root"])
            .arg(empty.path())
            .output()
            .unwrap();
        assert!(!done.status.success());
        String::from_utf8(done.stderr).unwrap()
    };
    assert!(install().contains("--root holds no system"));
    fs::create_dir(empty.path().join("etc")).unwrap();
    fs::write(empty.path().join("etc/passwd"), "").unwrap();
    let said = install();
    assert!(
        said.contains("there is no sshd in") && said.contains("hint: apt-get install openssh-server"),
        "{said}"
    );
}

#[test]
fn only_root_may_install_and_uninstall() {
    // Debug builds may lie where nobody else can read them.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("orion-agent");
    // By another process: what this one wrote could be `Text file busy` as long as another thread starts a program.
    assert!(Command::new("cp").arg(binary()).arg(&copy).status().unwrap().success());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["install", "uninstall"] {
        let done = Command::new("setpriv")
            .args(["--reuid", "65534", "--clear-groups"])
            .arg(&copy)
            .arg(command)
            .output()
            .unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains("needs root\nhint: sudo orion-agent"), "{said}");
    }
}

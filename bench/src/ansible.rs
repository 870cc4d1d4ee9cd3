//! What an operator would use otherwise: `ansible-playbook` with the tasks that make an equal account,
//! pipelining on, its ControlPersist connection warm, no facts gathered.

use crate::{
    broken::{Broken, Context as _},
    floor::{Account, Floor},
    site::Site,
};
use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// Longest run.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// Playbook with modules of ansible-core only: `authorized_key` is in a collection that Debian's package
/// lacks.
const PLAYBOOK: &str = r#"- hosts: all
  gather_facts: false
  tasks:
    - name: make the account
      ansible.builtin.user:
        name: "{{ user }}"
        uid: "{{ uid }}"
        groups: [orion-lease]
        shell: /bin/bash
        password: "{{ password_hash }}"
    - name: make the directory of the key
      ansible.builtin.file:
        path: "/home/{{ user }}/.ssh"
        state: directory
        owner: "{{ user }}"
        group: "{{ user }}"
        mode: "0700"
    - name: put the key
      ansible.builtin.copy:
        dest: "/home/{{ user }}/.ssh/authorized_keys"
        content: "{{ public_key }}\n"
        owner: "{{ user }}"
        group: "{{ user }}"
        mode: "0600"
"#;

/// Settings and inventory for one node.
pub struct Ansible {
    directory: PathBuf,
}

impl Ansible {
    /// Prepares runs against worker `index`.
    ///
    /// # Errors
    /// When ansible-playbook is missing.
    pub async fn prepare(site: &Site, floor: &Floor, index: usize) -> Result<Self, Broken> {
        let found = Command::new("ansible-playbook").arg("--version").stdout(Stdio::null()).status().await;
        if !found.is_ok_and(|status| status.success()) {
            return Err(Broken::new("ansible-playbook cannot be run").hint("apt-get install ansible-core"));
        }
        let directory = site.directory().join("ansible");
        fs::create_dir(&directory).context("the directory for ansible")?;
        let show = |path: PathBuf| path.display().to_string();
        let ssh_args = format!(
            "-F /dev/null -o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile={}",
            floor.known_hosts_path(index).display()
        );
        let settings = format!(
            "[defaults]\nlocal_tmp = {tmp}\nretry_files_enabled = false\nremote_tmp = /tmp/.ansible\n\
             interpreter_python = /usr/bin/python3\n\
             [ssh_connection]\npipelining = true\ncontrol_path_dir = {tmp}\nssh_args = {ssh_args}\n",
            tmp = show(directory.join("tmp")),
        );
        let inventory = format!(
            "{} ansible_user=root ansible_ssh_private_key_file={}\n",
            floor.address(index),
            show(floor.root_key_path())
        );
        for (name, text) in
            [("ansible.cfg", &*settings), ("inventory", &*inventory), ("create_user.yml", PLAYBOOK)]
        {
            fs::write(directory.join(name), text).context(name)?;
        }
        Ok(Self { directory })
    }

    /// Makes an account; the time from starting ansible-playbook until it has ended well.
    ///
    /// # Errors
    /// When it has not.
    pub async fn create(&self, account: &Account) -> Result<Duration, Broken> {
        let values = serde_json::json!({
            "user": account.user,
            "uid": account.uid,
            "password_hash": account.password_hash,
            "public_key": account.public_key,
        });
        let values_file = self.directory.join("values.json");
        fs::write(&values_file, values.to_string()).context("the values for ansible")?;
        let mut command = Command::new("ansible-playbook");
        command
            .current_dir(&self.directory)
            .env("ANSIBLE_CONFIG", self.directory.join("ansible.cfg"))
            .env("LC_ALL", "C.UTF-8")
            .args(["-i", "inventory", "--extra-vars", "@values.json", "create_user.yml"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let started = Instant::now();
        let output = tokio::time::timeout(RUN_TIMEOUT, command.output())
            .await
            .map_err(|_| Broken::new("ansible-playbook hangs"))?
            .context("ansible-playbook")?;
        let elapsed = started.elapsed();
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && said.contains("changed=3") {
            return Ok(elapsed);
        }
        let complained = String::from_utf8_lossy(&output.stderr);
        Err(Broken::new(format!("ansible-playbook: {}\n{said}{complained}", output.status)))
    }
}

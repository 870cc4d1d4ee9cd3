//! Settings that sites give their machines: sshd's, nologin, defaults of accounts, names of host keys. Whatever they are, a
//! rent gives a login that works by password and by key, or the machine is not offered and says which setting is in the way.

use super::{
    PATIENCE,
    site::{Site, is_shut_within_5_s},
    system::{Database, System},
    truthful::{Truthful, WORKS},
    user::{Ticket, User, tickets},
};
use orion_testkit::{KeyPair, Kind, SshClient, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

/// An agent sees a change of a setting within 5 s; its probe and the report take their time on a busy machine.
const NOTICED: Duration = Duration::from_secs(15);

impl Site<'_> {
    /// Puts a line into sshd's configuration, after Orion's own.
    pub fn sshd_says(&self, line: &str) {
        self.worker.sh(&format!("printf '%b\\n' '{line}' >/etc/ssh/sshd_config.d/50-site.conf"));
        self.worker.reload_sshd();
    }

    /// Ends [`Site::sshd_says`].
    pub fn sshd_says_no_more(&self) {
        self.worker.sh("rm -f /etc/ssh/sshd_config.d/50-site.conf");
        self.worker.reload_sshd();
    }

    /// Whether the machine is offered in the end; it must be so rightly. If it is not, the node, the refusal of a
    /// rent and
    /// `orion-agent check` name one of `words`.
    pub async fn works_or_says_why(&self, setting: &str, words: &[&str]) -> bool {
        let named = |text: &str| words.iter().any(|word| text.contains(word));
        let says_why = async || {
            let node = self.system.node(self.worker).await.expect("known");
            let says = node["offerable"] == false && node["lease"].is_null() && named(&node.to_string());
            if says { Ok(()) } else { Err(node) }
        };
        let begun = std::time::Instant::now();
        while begun.elapsed() < NOTICED {
            if says_why().await.is_ok() {
                return self.is_rightly_not_offered(setting, &named).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let reply = self.try_rent().await;
        if reply.status == 503 {
            // The agent of a busy machine saw it only now.
            let what = format!("the node says why ({setting}: {})", reply.body);
            wait_until(&what, PATIENCE, says_why).await;
            return self.is_rightly_not_offered(setting, &named).await;
        }
        let ticket = tickets(&reply.expect(200)).remove(0);
        self.both_logins_work(&ticket, setting).await;
        self.is_released(&ticket).await;
        true
    }

    /// Whether the machine, told `line` while it has a lease, goes on letting that in; what is shown of the lease must be
    /// true. Afterwards the line is there and the lease is not.
    async fn keeps_its_lease_truthfully(&self, line: &str) -> bool {
        let ticket = self.rent().await;
        let truthful = Truthful::watch(self.user, std::slice::from_ref(&ticket));
        self.sshd_says(line);
        let begun = std::time::Instant::now();
        let mut works = true;
        while works && begun.elapsed() < NOTICED {
            tokio::time::sleep(Duration::from_millis(200)).await;
            works = is_said_to_work(&self.user.show(ticket.rental_id).await);
        }
        if works {
            self.both_logins_work(&ticket, line).await;
            self.is_released(&ticket).await;
        } else {
            // What shuts tenants out may shut Orion out.
            self.sshd_says_no_more();
            self.until_said(&ticket, true).await;
            self.is_released(&ticket).await;
            self.sshd_says(line);
        }
        truthful.was_true().await;
        works
    }

    async fn is_rightly_not_offered(&self, setting: &str, named: &impl Fn(&str) -> bool) -> bool {
        let refused = self.try_rent().await;
        assert_eq!(refused.status, 503, "{setting}: {}", refused.body);
        // It names three nodes at most.
        let hint = refused.body["hint"].as_str().unwrap_or_default();
        let told = named(hint) || hint.matches(" of sshd").count() >= 3;
        let shut = self.system.node(self.worker).await.expect("known")["way_in"] == "shut";
        assert!(told || !shut, "{setting}: the refusal: {}", refused.body);
        let check = self.worker.try_sh("set -a; . /etc/orion/agent.env; orion-agent check 2>&1");
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(!check.status.success() && named(&said), "{setting}: orion-agent check: {said}");
        false
    }

    /// Waits until the lease is no longer said to work, or works again, whichever the test wants.
    pub async fn until_said(&self, ticket: &Ticket, works: bool) -> Value {
        let what = if works { "said to work" } else { "not said to work" };
        wait_until(what, PATIENCE, async || {
            let lease = self.user.show(ticket.rental_id).await;
            if is_said_to_work(&lease) == works { Ok(lease) } else { Err(lease.to_string()) }
        })
        .await
    }
}

fn is_said_to_work(lease: &Value) -> bool {
    lease["state_reason"].as_str().is_some_and(|reason| reason.starts_with(WORKS))
}

/// Starts `count` workers, each with a tag of its own: `site1` and so on.
async fn sites(count: usize) -> (System, Vec<String>) {
    let mut system = System::start(Database::Sqlite, 0).await;
    let tags: Vec<String> = (1..=count).map(|number| format!("site{number}")).collect();
    for tag in &tags {
        system.add(Kind::Debian, tag);
    }
    system.until_offered(system.workers()).await;
    (system, tags)
}

/// Lines of sshd's configuration, each with the words of which one must be said if no login works with it.
const LANES: [&[(&str, &[&str])]; 6] = [
    &[("AllowUsers root", &["AllowUsers"]), ("Ciphers aes256-ctr", &["Ciphers", "cipher"])],
    &[
        ("PasswordAuthentication no", &["PasswordAuthentication"]),
        ("DenyGroups orion-lease", &["DenyGroups"]),
        ("AllowGroups root ssh-users", &["AllowGroups"]),
    ],
    &[
        ("AuthorizedKeysFile /etc/ssh/keys/%u", &["AuthorizedKeysFile"]),
        ("KexAlgorithms ecdh-sha2-nistp256", &["KexAlgorithms", "key exchange"]),
    ],
    &[
        ("PubkeyAcceptedAlgorithms rsa-sha2-512", &["PubkeyAcceptedAlgorithms"]),
        ("MACs hmac-sha2-256", &["MACs"]),
    ],
    &[
        ("CASignatureAlgorithms rsa-sha2-512", &["CASignatureAlgorithms"]),
        ("MaxSessions 1", &["MaxSessions"]),
    ],
    &[
        ("AuthenticationMethods publickey,password", &["AuthenticationMethods"]),
        (OF_ONE_NAME[0], &[]),
        (OF_ONE_NAME[1], &[]),
    ],
];
/// Rules for one user, which no probe account shows: a lease that is there is shut out, the next one's account gets another
/// name.
const OF_ONE_NAME: [&str; 2] = ["DenyUsers vera uma", "Match User uma\\nPasswordAuthentication no"];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_sshd_is_told_a_rented_login_works_or_the_node_is_not_offered_and_says_which_setting() {
    let (system, tags) = sites(LANES.len()).await;
    let (uma, key) = (system.user("uma").await, KeyPair::generate());
    let lanes = LANES.iter().zip(system.workers()).zip(&tags).map(|((lane, worker), tag)| {
        let site = Site { system: &system, worker, tag, user: &uma, key: &key };
        async move {
            for (line, words) in *lane {
                let kept = site.keeps_its_lease_truthfully(line).await;
                let works = site.works_or_says_why(line, words).await;
                eprintln!(
                    "{line}: a lease's login goes on: {kept}; {}",
                    if works { "works" } else { "is not offered" }
                );
                assert!(works || !OF_ONE_NAME.contains(line), "{line} shuts out one name alone");
                assert!(!kept || works, "{line} lets a lease in that is there, and no new one");
                site.sshd_says_no_more();
                site.is_well_again(line).await;
            }
        }
    });
    futures_util::future::join_all(lanes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_of_an_agent_opens_a_node_for_lease_accounts_and_for_nobody_else() {
    let (system, tags) = sites(1).await;
    let (uma, key) = (system.user("uma").await, KeyPair::generate());
    let site = Site { system: &system, worker: &system.workers()[0], tag: &tags[0], user: &uma, key: &key };
    site.worker.sh("useradd -m -s /bin/sh local && echo local:local-secret | chpasswd");
    site.sshd_says("PasswordAuthentication no\nAllowUsers root");
    assert!(!site.works_or_says_why("shut", &["AllowUsers"]).await);
    let agent = "set -a; . /etc/orion/agent.env; orion-agent";
    site.worker.sh(&format!("{agent} install --open-leases --no-start --init systemd"));
    site.is_well_again("the rule").await;
    let ticket = site.rent().await;
    site.both_logins_work(&ticket, "with the rule").await;
    let local = SshClient::with_password(ticket.address(), "local", "local-secret");
    assert!(local.run("id").await.is_err(), "the rule is for lease accounts");
    site.is_released(&ticket).await;
    let told =
        site.worker.sh(&format!("{agent} uninstall >/dev/null; sshd -T -C user=x,host=x,addr=127.0.0.1"));
    assert!(
        told.contains("allowusers root\n") && !told.contains("allowusers *"),
        "the site's own again: {told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nologin_file_takes_a_free_node_away_and_shows_at_a_running_lease_until_it_is_gone() {
    let (system, tags) = sites(1).await;
    let (vera, key) = (system.user("vera").await, KeyPair::generate());
    let site = Site { system: &system, worker: &system.workers()[0], tag: &tags[0], user: &vera, key: &key };
    site.worker.sh("echo 'maintenance until noon' >/etc/nologin");
    assert!(!site.works_or_says_why("/etc/nologin", &["nologin"]).await, "nobody but root gets in");
    site.worker.sh("rm /etc/nologin");
    site.is_well_again("/etc/nologin").await;

    let ticket = site.rent().await;
    let truthful = Truthful::watch(&vera, std::slice::from_ref(&ticket));
    site.worker.sh("echo 'maintenance until noon' >/etc/nologin");
    let lease = site.until_said(&ticket, false).await;
    assert_eq!(lease["state"], "active", "the machine's doing ends no lease: {lease}");
    assert!(lease["state_reason"].to_string().contains("nologin"), "{lease}");
    site.worker.sh("rm /etc/nologin");
    site.until_said(&ticket, true).await;
    site.both_logins_work(&ticket, "after the file").await;
    truthful.was_true().await;
    site.is_released(&ticket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_account_has_no_expiry_and_no_ageing_whatever_new_accounts_get_and_is_locked_at_its_end() {
    let (system, tags) = sites(1).await;
    let (wanda, key) = (system.user("wanda").await, KeyPair::generate());
    let site = Site { system: &system, worker: &system.workers()[0], tag: &tags[0], user: &wanda, key: &key };
    for expiry in ["2020-01-01", "2099-12-31"] {
        site.worker.sh(&format!(
            "sed -i '/^#* *EXPIRE=/d' /etc/default/useradd; echo EXPIRE={expiry} >>/etc/default/useradd; \
             sed -i 's/^PASS_MAX_DAYS.*/PASS_MAX_DAYS 1/; s/^PASS_MIN_DAYS.*/PASS_MIN_DAYS 7/' /etc/login.defs"
        ));
        site.system.until_offered(system.workers()).await;
        let ticket = site.rent().await;
        let truthful = Truthful::watch(&wanda, std::slice::from_ref(&ticket));
        site.both_logins_work(&ticket, expiry).await;
        let never = site.worker.sh("LC_ALL=C chage -l wanda");
        let lines = never
            .lines()
            .filter(|line| line.starts_with("Password expires") || line.starts_with("Account expires"));
        assert!(lines.clone().count() == 2 && lines.clone().all(|line| line.ends_with("never")), "{never}");
        // As on a day in the middle of a long lease.
        site.worker.sh("chage -d $(date -d '3 days ago' +%F) wanda");
        site.both_logins_work(&ticket, "on the third day").await;

        // What cannot be killed holds up the end of the lease, not the lock.
        let sleeps = "nohup setsid sleep 876543 >/dev/null 2>&1 </dev/null & echo done";
        assert_eq!(ticket.by_password().run(sleeps).await.as_deref(), Ok("done\n"));
        let frozen = site.worker.freeze_processes("sleep\u{0}876543");
        let released = wanda.release(ticket.rental_id).await;
        assert!(
            released["message"] != "Lease released" || wanda.show(ticket.rental_id).await["state"] == "ended"
        );
        is_shut_within_5_s(&ticket).await;
        drop(frozen);
        wanda.until(ticket.rental_id, "over", |lease| lease["state"] == "ended").await;
        truthful.was_true().await;
        site.system.until_offered(system.workers()).await;
        super::user::is_clean(site.worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_known_by_the_host_keys_that_its_sshd_uses_under_whatever_names() {
    let system = System::start_with_plain(Database::Sqlite, 2, 0).await;
    let [own_name, left_over] = system.workers() else { panic!("two workers") };
    let keygen =
        "ssh-keygen -q -t TYPE -N '' -f FILE; sed -i 's,^HostKey .*,HostKey FILE,' /etc/ssh/sshd_config";
    own_name.sh(&keygen.replace("TYPE", "ed25519").replace("FILE", "/etc/ssh/site_key"));
    // An ed25519 key lies there too, which sshd does not use.
    left_over.sh(&keygen.replace("TYPE", "ecdsa").replace("FILE", "/etc/ssh/ssh_host_ecdsa_key"));
    for (worker, file) in
        [(own_name, "/etc/ssh/site_key.pub"), (left_over, "/etc/ssh/ssh_host_ecdsa_key.pub")]
    {
        worker.kill();
        worker.start(); // now with an agent
        let node = system.until_node(worker, "offered", |node| node["offerable"] == true).await;
        let words: Vec<String> =
            worker.sh(&format!("cat {file}")).split_whitespace().map(str::to_owned).collect();
        assert_eq!(node["admin"]["host_keys"], json!([words[..2].join(" ")]), "{node}");
    }
    let xena: User = system.user("xena").await;
    for ticket in xena.rent(json!({ "duration_hours": 1, "count": 2 })).await {
        assert_eq!(
            ticket.by_password().run("id -un").await.as_deref(),
            Ok("xena\n"),
            "{}",
            ticket.known_hosts
        );
    }
}

//! An eye on this node's sshd: whether it trusts the control plane, what is in the way, and whether it answers.

use crate::{
    banner,
    config::Config,
    sshd::Sshd,
    state::{Identity, StateDir},
};
use std::net::{Ipv4Addr, SocketAddr};

/// Keeps an eye on this node's sshd.
#[derive(Debug)]
pub struct Watcher {
    sshd: Sshd,
    ssh_port: u16,
    addresses: Vec<SocketAddr>,
    last_problem: Option<String>,
    checked: bool,
}

impl Watcher {
    /// Watches the sshd that the configuration names; nothing is known of it yet.
    pub fn new(config: &Config, state: &StateDir) -> Self {
        let sshd = Sshd::new(&config.sshd_config_dir, &config.sshd_pid_file, state.path("sshd-told"));
        Self { sshd, ssh_port: config.ssh_port, addresses: Vec::new(), last_problem: None, checked: false }
    }

    /// Sees to it that sshd trusts the control plane, and says once what is in the way.
    pub async fn look(&mut self, identity: &Identity) {
        let (sshd, authority) = (self.sshd.clone(), identity.ssh_ca.clone());
        let recheck = !self.checked || self.last_problem.is_some() || self.addresses.is_empty();
        let looked = tokio::task::spawn_blocking(move || {
            let installed = sshd.trust(&authority)?;
            if installed {
                tracing::info!("sshd trusts the control plane's authority");
            }
            if !installed && !recheck {
                return Ok(None);
            }
            let effective = sshd.effective()?;
            Ok::<_, String>(Some((sshd.obstacles(&effective), effective.listens)))
        });
        let problem = match looked.await {
            Ok(Ok(None)) => return,
            Ok(Ok(Some((obstacles, listens)))) => {
                self.checked = true;
                self.addresses = listens;
                obstacles.join("; ")
            }
            Ok(Err(problem)) => problem,
            Err(error) => error.to_string(),
        };
        let problem = (!problem.is_empty()).then_some(problem);
        if let Some(text) = &problem
            && self.last_problem.as_ref() != Some(text)
        {
            tracing::error!("the control plane will not be able to log in: {text}");
        }
        self.last_problem = problem;
    }

    /// Whether a running sshd has been told to trust the control plane.
    pub fn sshd_has_been_told(&self) -> bool {
        self.sshd.has_been_told()
    }

    /// Returns the addresses at which this node's sshd should answer.
    pub fn sshd_addresses(&mut self) -> &[SocketAddr] {
        if self.addresses.is_empty() {
            self.addresses.push((Ipv4Addr::LOCALHOST, self.ssh_port).into());
        }
        &self.addresses
    }

    /// Whether it answers now.
    pub async fn sshd_answers(&mut self) -> bool {
        !banner::is_refused(self.sshd_addresses()).await
    }
}

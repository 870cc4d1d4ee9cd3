//! The real program, as an operator runs it.

use orion_domain::Secret;
use orion_testkit::{free_port, wait_until};
use reqwest::Client;
use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(40);

/// A running `orion-control-plane`; it is killed when it is dropped.
pub struct ControlPlane {
    child: Child,
    /// URL that the process listens on.
    pub url: String,
}

impl ControlPlane {
    /// Starts one that logs into `log` as JSON, with further settings, and waits until it answers.
    pub async fn start(
        database_url: &str,
        master_key: &Secret,
        log: &File,
        settings: &[(&str, &str)],
    ) -> Self {
        let port = free_port();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_orion-control-plane")])
            .env_clear()
            .env("ORION_DATABASE_URL", database_url)
            .env("ORION_MASTER_KEY", master_key.expose())
            .env("ORION_LISTEN", format!("127.0.0.1:{port}"))
            .env("ORION_LOG_FORMAT", "json")
            .envs(settings.iter().copied())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone().expect("a second handle"))
            .spawn()
            .expect("setpriv (Debian: util-linux) starts");
        let process = Self { child, url: format!("http://127.0.0.1:{port}") };
        let client = Self::client();
        wait_until("it answers", PATIENCE, async || {
            let reply = client.get(format!("{}/api/live", process.url)).send().await.ok()?;
            (reply.status() == 200).then_some(())
        })
        .await;
        process
    }

    /// An HTTP client without a proxy.
    pub fn client() -> Client {
        // Only fails where there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client")
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(mut self) {
        tokio::task::spawn_blocking(move || {
            let pid = self.child.id().to_string();
            let sent = Command::new("/bin/kill").args(["-s", "TERM", &pid]).status().expect("kill runs");
            assert!(sent.success());
            assert!(self.child.wait().expect("it ends").success());
        })
        .await
        .expect("it stopped");
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

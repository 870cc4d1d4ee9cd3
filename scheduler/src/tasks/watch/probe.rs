//! What a watcher asks its node over SSH, and what the answers say.

use super::*;

/// Has further host keys accepted that the node's sshd proves to have. Whether that speaks against admitting it: a machine
/// that is another node already is not admitted, nor one of which that could not be found out.
pub(super) async fn learn_keys(scheduler: &Scheduler, node: &Node, target: &Target) -> Result<bool, String> {
    let keys = scheduler.fleet.pool.further_keys(target).await.map_err(|error| error.to_string())?;
    let keys = keys.iter().map(|key| key.to_string().parse()).collect::<Result<Vec<SshPublicKey>, _>>()?;
    if keys.is_empty() {
        return Ok(true);
    }
    let proved = scheduler.fleet.store.nodes().proved_host_keys(node, &keys, scheduler.fleet.now());
    let told = proved.await.map_err(|error| error.to_string())?;
    match told {
        KeysTold::Known => return Ok(true),
        KeysTold::Copied(other) => {
            tracing::warn!(node = %node.id, %other, "two machines have the same further host key; it is accepted of the other");
            return Ok(true);
        }
        KeysTold::Added | KeysTold::Stale => {}
        KeysTold::SameMachine(other) => tracing::warn!(node = %node.id, %other, "two nodes are one machine"),
    }
    scheduler.fleet.nudge.all();
    Ok(false)
}

impl Watcher {
    pub(super) async fn look(&mut self) -> ProbeResult {
        let node = self.watch.node().clone();
        let target = match &self.target {
            Ok(target) => target.clone(),
            Err(error) => return ProbeResult::Failed { failure: Failure::Sick, detail: error.clone() },
        };
        let seen = if node.admission == Admission::Pending {
            // Boxes, here and below: what is needed now and then must not lie in every watcher all the time.
            Box::pin(self.scan(&node)).await
        } else {
            self.probe(&node, &target).await
        };
        match seen {
            Ok(()) => ProbeResult::Answered,
            Err(error) => self.result_of(&error),
        }
    }

    /// Returns what a failed probe shows.
    fn result_of(&self, error: &SshError) -> ProbeResult {
        let failure = match error.meaning() {
            // A throttling sshd answers, and one that gives no more channels has a session with us: alive.
            Meaning::Throttled => return ProbeResult::Answered,
            Meaning::Nothing => {
                tracing::debug!(node = %self.id, %error, "a probe failed on our side");
                return ProbeResult::Inconclusive;
            }
            Meaning::WrongKey => Failure::WrongKey,
            Meaning::Sick => Failure::Sick,
            Meaning::Gone => Failure::Refused,
            Meaning::Silent => Failure::Silent,
        };
        ProbeResult::Failed { failure, detail: error.to_string() }
    }

    /// Sees which host key a pending node has, for an admin to accept.
    async fn scan(&self, node: &Node) -> Result<(), SshError> {
        let Some(sshd) = node.sshd() else { return Ok(()) };
        let key = scan_host_key(sshd.addr.as_str(), sshd.port.get(), &PoolConfig::default()).await?;
        let fingerprint = key.fingerprint();
        if node.seen_fingerprint.as_deref() != Some(fingerprint.as_str()) {
            let (store, now) = (&self.scheduler.fleet.store, self.now());
            if let Err(error) =
                store.nodes().record_host_key(self.id, &key.to_string(), &fingerprint, now).await
            {
                tracing::warn!(node = %self.id, %error, "a seen host key could not be recorded");
            }
        }
        Ok(())
    }

    async fn probe(&mut self, node: &Node, target: &Target) -> Result<(), SshError> {
        let (pool, config) = (&self.scheduler.fleet.pool, &self.scheduler.config);
        let now = self.now();
        if !pool.is_connected(self.id.0) {
            self.timed(Probe::Connect, Box::pin(pool.connect(target))).await?;
            self.learn_keys_beside(node, target);
            // Nodes that were connected to together are not all shaken hands with together.
            self.last_handshake = now.minus(self.handshake_every().mul_f64(rand::random_range(0.0..1.0)));
            // What it remembers is asked for soon: the database may have been restored from a backup.
            if self.known_memory().is_some() {
                self.last_command = now;
            }
            return Ok(());
        }
        if matches!(self.watch.path(), SshPath::Failing { .. }) {
            return Box::pin(self.second_opinion(target)).await;
        }
        // An agent that says its sshd is down knows what an old session cannot show.
        let doubted = node.agent_sees_sshd == Some(false);
        if doubted || now.since(self.last_handshake) >= self.handshake_every() {
            self.last_handshake = now;
            // Again: the pooled session may be one that other work dialled.
            self.learn_keys_beside(node, target);
            return self.timed(Probe::Handshake, Box::pin(pool.fresh_handshake(target))).await;
        }
        if now.since(self.last_command) >= config.command_every {
            // The first of a node comes at once, the others are spread.
            let first = self.known_memory().is_none();
            let early = if first {
                config.command_every.mul_f64(rand::random_range(0.0..1.0))
            } else {
                Duration::ZERO
            };
            self.last_command = now.minus(early);
            let mut memory = None;
            let command = async {
                memory = self.command(target).await?;
                Ok(())
            };
            self.timed(Probe::Command, Box::pin(command)).await?;
            if let Some(memory) = memory {
                self.compare(memory);
            }
            return Ok(());
        }
        self.timed(Probe::Keepalive, pool.keepalive(target, config.keepalive_timeout)).await
    }

    /// [`learn_keys`], in a task of its own, of a node that is admitted; before that it is done on admission.
    fn learn_keys_beside(&self, node: &Node, target: &Target) {
        if node.admission != Admission::Admitted {
            return;
        }
        let (scheduler, node, target) = (self.scheduler.clone(), node.clone(), target.clone());
        self.scheduler.spawn(async move {
            if let Err(error) = learn_keys(&scheduler, &node, &target).await {
                tracing::debug!(node = %node.id, error, "further host keys are not known");
            }
        });
    }

    fn handshake_every(&self) -> Duration {
        self.scheduler.config.handshake_every_of(self.scheduler.fleetwide.own_nodes())
    }

    /// Counts a probe, how long it took and what it said.
    async fn timed(
        &self,
        probe: Probe,
        work: impl Future<Output = Result<(), SshError>>,
    ) -> Result<(), SshError> {
        let began = Instant::now();
        let outcome = work.await;
        let word = outcome.as_ref().map_or_else(|error| error.meaning().as_str(), |()| "ok");
        self.scheduler.fleet.metrics.probed(probe, word, began.elapsed());
        outcome
    }

    /// A failing node is asked both ways at once: the old session may only have been cut for a moment, and a
    /// stuck session says nothing about new ones.
    async fn second_opinion(&self, target: &Target) -> Result<(), SshError> {
        let (pool, config) = (&self.scheduler.fleet.pool, &self.scheduler.config);
        let (kept, fresh) = tokio::join!(
            self.timed(Probe::Keepalive, pool.keepalive(target, config.keepalive_timeout)),
            self.timed(Probe::Handshake, pool.fresh_handshake(target))
        );
        match (kept, fresh) {
            (Ok(()), Ok(())) => Ok(()),
            // The old session is stuck, the node is not.
            (Err(_), Ok(())) => {
                pool.drop_session(self.id.0);
                self.timed(Probe::Connect, pool.connect(target)).await
            }
            // New logins fail while old sessions live: not healthy, and the error of the dial says why.
            (Ok(()) | Err(_), Err(error)) => Err(error),
        }
    }

    /// Runs the command by which a node shows that it works; what it remembers, if it said so.
    async fn command(&self, target: &Target) -> Result<Option<HighWaterMarks>, SshError> {
        let request = ExecRequest {
            command: MEMORY_COMMAND.into(),
            stdin: Vec::new(),
            timeout: self.scheduler.config.command_timeout,
            output_max_bytes: 1024,
        };
        let output = self.scheduler.fleet.pool.exec(target, request).await?;
        Ok(output.is_success().then(|| read_memory(&output.stdout)))
    }

    fn known_memory(&self) -> Option<HighWaterMarks> {
        *self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what the node remembers compared with the database if it is news, beside the probes: a database that is
    /// away must not delay them.
    fn compare(&self, memory: HighWaterMarks) {
        if self.known_memory() == Some(memory) {
            return;
        }
        let (id, scheduler, compared) = (self.id, self.scheduler.clone(), self.compared.clone());
        self.scheduler.spawn(async move {
            let Ok(_turn) = scheduler.comparisons.acquire().await else { return };
            match scheduler.fleet.compare_high_water(id, memory).await {
                Ok(()) => *compared.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory),
                Err(error) => tracing::debug!(node = %id, %error, "what a node remembers is compared later"),
            }
        });
    }
}

//! The brake, one for all schedulers: pulled, let go and honoured here.
//!
//! It is the setting `brake`, which `GET /api/health` shows as it is. The transaction that gives a node up reads
//! it, too, so that no scheduler migrates while another has pulled it.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::vals,
    error::{Cas, Fault, Result, StoreError},
    model::NewEvent,
    rows::{clip, json},
};
use orion_domain::{
    Timestamp, UserId,
    brake::{Brake, Engaged},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The setting's name.
const NAME: &str = "brake";

/// The setting's value.
#[derive(Serialize, Deserialize)]
struct Setting {
    engaged: bool,
    /// Since when it is as it is.
    since: Option<Timestamp>,
    #[serde(default)]
    reason: String,
    /// The scheduler that pulled it; none for one that is let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

impl Setting {
    /// A value that cannot be read is a brake that is off: somebody changed it by hand.
    fn read(text: Option<&str>) -> Brake {
        let Some(text) = text else { return Brake::default() };
        let setting: Self = match serde_json::from_str(text) {
            Ok(setting) => setting,
            Err(error) => {
                tracing::warn!(%error, "the setting 'brake' cannot be read; it counts as off");
                return Brake::default();
            }
        };
        let Self { engaged, since, reason, by } = setting;
        match (engaged, since) {
            (true, Some(since)) => Brake {
                engaged: Some(Engaged { since, reason, by: by.unwrap_or_default() }),
                lifted_at: None,
            },
            (true, None) | (false, _) => Brake { engaged: None, lifted_at: since },
        }
    }
}

impl Tx {
    /// The brake, locked until this transaction ends: for others to read (`shared`), or for this one to write.
    async fn brake(&mut self, maria: bool, shared: bool) -> Result<Option<String>> {
        let sql = match (maria, shared) {
            (true, true) => "SELECT value FROM settings WHERE name = ? LOCK IN SHARE MODE",
            (true, false) => "SELECT value FROM settings WHERE name = ? FOR UPDATE",
            (false, _) => "SELECT value FROM settings WHERE name = ?",
        };
        Ok(self.one::<(String,)>(sql, vals![NAME]).await?.map(|(value,)| value))
    }

    /// Whether nothing may be given up now.
    pub(crate) async fn brake_is_on(&mut self, maria: bool) -> Result<bool> {
        Ok(Setting::read(self.brake(maria, true).await?.as_deref()).engaged.is_some())
    }

    async fn write_brake(&mut self, known: bool, setting: &Setting) -> Result<()> {
        let sql = if known {
            "UPDATE settings SET value = ? WHERE name = ?"
        } else {
            "INSERT INTO settings (value, name) VALUES (?, ?)"
        };
        match self.exec(sql, vals![json(setting)?, NAME]).await {
            Ok(_) => Ok(()),
            Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
            Err(fault) => Err(fault),
        }
    }
}

impl Store {
    /// The brake as it stands.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn brake(&self) -> Result<Brake, StoreError> {
        Ok(Setting::read(self.get_setting(NAME).await?.as_deref()))
    }

    /// The scheduler `by` pulls the brake, with its event. `known` is what it knew of the brake when it saw the
    /// reason. `Stale`: the brake is not as `known` says (it is on already, or was let go since): read it again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pull_brake(
        &self,
        known: &Brake,
        by: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<Brake>, StoreError> {
        let (maria, reason) = (self.db.is_maria(), clip(reason));
        Ok(transaction!(&self.db, |tx| {
            let value = tx.brake(maria, false).await?;
            let before = Setting::read(value.as_deref());
            if before.engaged.is_some() || before != *known {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let engaged = Engaged { since: now, reason: reason.clone(), by: by.to_owned() };
            let by = Some(by.to_owned());
            let setting = Setting { engaged: true, since: Some(now), reason: reason.clone(), by };
            tx.write_brake(value.is_some(), &setting).await?;
            let data = json!({ "reason": reason, "by": engaged.by });
            tx.tell(&[brake_event("brake.engaged", data)], now).await?;
            Ok(Cas::Done(Brake { engaged: Some(engaged), lifted_at: None }))
        })?)
    }

    /// Lets the brake go, with its event: a scheduler that finds it may (`expected` is the one it looked at), or
    /// an admin (`actor`), who may at any time. What went silent before `now` pulls it no more. `Stale`: it is
    /// not on, or not the `expected` one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lift_brake(
        &self,
        expected: Option<&Engaged>,
        reason: &str,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<Brake>, StoreError> {
        let (maria, reason) = (self.db.is_maria(), clip(reason));
        Ok(transaction!(&self.db, |tx| {
            let value = tx.brake(maria, false).await?;
            let engaged = Setting::read(value.as_deref()).engaged;
            if engaged.is_none() || expected.is_some_and(|expected| engaged.as_ref() != Some(expected)) {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let setting = Setting { engaged: false, since: Some(now), reason: reason.clone(), by: None };
            tx.write_brake(value.is_some(), &setting).await?;
            let mut data = json!({ "reason": reason });
            if let Some(actor) = actor {
                data["actor"] = actor.0.into();
            }
            tx.tell(&[brake_event("brake.lifted", data)], now).await?;
            Ok(Cas::Done(Brake { engaged: None, lifted_at: Some(now) }))
        })?)
    }
}

fn brake_event(kind: &'static str, data: serde_json::Value) -> NewEvent {
    NewEvent { kind, lease: None, node: None, user: None, data }
}

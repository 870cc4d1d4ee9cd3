//! The brake, one for all schedulers: engaged, released and honoured here.
//!
//! It is the setting `brake`, which `GET /api/health` shows as it is. The transaction that gives a node up reads
//! it, too, so that no scheduler migrates while another has engaged it. Both also write the setting `brake_turn`: in a
//! cluster whose members know nothing of each other's locks (Galera), of two that overlap only one is committed.

use super::Cluster;
use crate::{
    engine::{Cas, Fault, Result, StoreError, Tx, clip, json, transaction, vals},
    events::{NewEvent, new_ulid},
};
use orion_domain::{
    Timestamp, UserId,
    brake::{Brake, Engaged},
    event::BrakeEvent,
};
use serde::{Deserialize, Serialize};

/// The setting's name.
const NAME: &str = "brake";
/// The setting that whoever pulls, lifts or honours it writes, with a value that was never there.
const TURN: &str = "brake_turn";

/// The setting's value.
#[derive(Serialize, Deserialize)]
struct Setting {
    engaged: bool,
    /// Time since which the brake has been in this state.
    since: Option<Timestamp>,
    #[serde(default)]
    reason: String,
    /// The scheduler that engaged it; none for one that is released.
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
    /// The brake, once no other transaction that decides by it is under way; locked until this one ends.
    async fn brake(&mut self, maria: bool, now: Timestamp) -> Result<Option<String>> {
        let turn = if maria {
            "INSERT INTO settings (name, value) VALUES (?, ?) ON DUPLICATE KEY UPDATE value = VALUES(value)"
        } else {
            "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        };
        self.exec(turn, vals![TURN, new_ulid(now)]).await?;
        let sql = if maria {
            "SELECT value FROM settings WHERE name = ? FOR UPDATE"
        } else {
            "SELECT value FROM settings WHERE name = ?"
        };
        Ok(self.one::<(String,)>(sql, vals![NAME]).await?.map(|(value,)| value))
    }

    /// Whether nothing may be given up now.
    pub(crate) async fn brake_is_on(&mut self, maria: bool, now: Timestamp) -> Result<bool> {
        Ok(Setting::read(self.brake(maria, now).await?.as_deref()).engaged.is_some())
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

impl Cluster<'_> {
    /// The brake as it stands.
    pub async fn brake(self) -> Result<Brake, StoreError> {
        Ok(Setting::read(self.get_setting(NAME).await?.as_deref()))
    }

    /// The scheduler `by` pulls the brake, with its event. `known` is what it knew of the brake when it saw the
    /// reason. `Stale`: the brake is not as `known` says (it is on already, or was released since): read it again.
    pub async fn engage_brake(
        self,
        known: &Brake,
        by: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<Cas<Brake>, StoreError> {
        let (maria, reason) = (self.store.db.is_maria(), clip(reason));
        Ok(transaction!(&self.store.db, |tx| {
            let value = tx.brake(maria, now).await?;
            let before = Setting::read(value.as_deref());
            if before.engaged.is_some() || before != *known {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let engaged = Engaged { since: now, reason: reason.clone(), by: by.to_owned() };
            let by = Some(by.to_owned());
            let setting = Setting { engaged: true, since: Some(now), reason: reason.clone(), by };
            tx.write_brake(value.is_some(), &setting).await?;
            let event = BrakeEvent::Engaged { reason: reason.clone(), by: engaged.by.clone() };
            tx.append_events(&[NewEvent::new(event)], now).await?;
            Ok(Cas::Done(Brake { engaged: Some(engaged), lifted_at: None }))
        })?)
    }

    /// Releases the brake, with its event: a scheduler that finds the brake on may (`expected` is the one
    /// that it looked at), or an admin (`actor`), at any time. Nodes that went silent before `now` do not
    /// engage the brake again. `Stale`: the brake is not on, or not the `expected` one.
    pub async fn release_brake(
        self,
        expected: Option<&Engaged>,
        reason: &str,
        actor: Option<UserId>,
        now: Timestamp,
    ) -> Result<Cas<Brake>, StoreError> {
        let (maria, reason) = (self.store.db.is_maria(), clip(reason));
        Ok(transaction!(&self.store.db, |tx| {
            let value = tx.brake(maria, now).await?;
            let engaged = Setting::read(value.as_deref()).engaged;
            if engaged.is_none() || expected.is_some_and(|expected| engaged.as_ref() != Some(expected)) {
                tx.abandon();
                return Ok(Cas::Stale);
            }
            let setting = Setting { engaged: false, since: Some(now), reason: reason.clone(), by: None };
            tx.write_brake(value.is_some(), &setting).await?;
            let event = BrakeEvent::Lifted { reason: reason.clone() };
            tx.append_events(&[NewEvent::new(event).by(actor)], now).await?;
            Ok(Cas::Done(Brake { engaged: None, lifted_at: Some(now) }))
        })?)
    }
}

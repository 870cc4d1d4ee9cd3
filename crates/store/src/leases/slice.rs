//! Placing slices: leases beside each other on one node. Takes capacity and no claim on the node, as for whole nodes.

use crate::{
    engine::{Db, Result, Tx, vals},
    leases::candidates::Candidate,
    leases::first_container::make_containers,
    leases::hold::SliceSize,
    leases::insert::{GiveUp, insert_lease, lease_names, next_uid, stay_within_quota, tell_placed, too_few},
    leases::placement::{PlaceRequest, Placement},
    leases::rooms::{PickedRoom, fullest},
};
use orion_domain::lease::LeaseState;
use sqlx::AssertSqlSafe;

/// Places `request.count` leases that each hold a slice of this size, or none at all; fullest nodes first, so that large
/// holes stay for large requests; with `picked` on that node alone.
pub(super) async fn place_slices(
    db: &Db,
    tx: &mut Tx,
    request: &PlaceRequest,
    size: SliceSize,
    picked: Option<&PickedRoom>,
) -> std::result::Result<Vec<Placement>, GiveUp> {
    let now = request.now;
    let names = lease_names(request)?;
    stay_within_quota(tx, request).await?;
    // Leases without a login need no uid, and their placements do not queue for the next one.
    let stored = if request.accounts.is_empty() { request.first_uid } else { next_uid(db, tx).await? };
    let mut next = stored.max(request.first_uid);
    let mut placed = Vec::with_capacity(request.count);
    for (number, name) in names.into_iter().enumerate() {
        let candidates = match picked {
            Some(picked) => vec![picked.candidate()?],
            None => rooms(tx, request).await?,
        };
        let mut candidates = candidates.into_iter();
        let (node, lease) = loop {
            let Some(Candidate { id: node, subordinate }) = candidates.next() else {
                if picked.is_some() {
                    return Err(GiveUp::Missed("the node has no room any more".into()));
                }
                return Err(GiveUp::As(too_few(tx, placed.len(), &request.tags, now).await?));
            };
            let mut after = next;
            let account = request.account(number, &subordinate, &mut after)?;
            let state = LeaseState::Provisioning { node };
            let lease = insert_lease(tx, request, state, account, name.clone()).await?;
            // After the lease: whoever places on the same node waits from here on.
            if tx.take_slice((node, lease.id), size, now.plus(request.first_turn), now).await? {
                next = after;
                break (node, lease);
            }
            tx.exec("DELETE FROM leases WHERE id = ?", vals![lease.id]).await?;
        };
        placed.push((lease, node));
    }
    tell_placed(tx, &placed.iter().map(|(lease, node)| (lease, *node)).collect::<Vec<_>>(), now).await?;
    if !request.accounts.is_empty() && next != stored {
        tx.set_next_uid(stored, next).await?;
    }
    let mut placements = Vec::with_capacity(placed.len());
    for (lease, node) in placed {
        placements.push(Placement::read(tx, lease, node, now).await?);
    }
    Ok(make_containers(tx, request, placements, now).await?)
}

/// The nodes that have room for a slice, fullest first.
async fn rooms(tx: &mut Tx, request: &PlaceRequest) -> Result<Vec<Candidate>> {
    let (rest, values) = fullest(request);
    let sql = format!("SELECT id, subordinate_uids FROM nodes {rest}");
    let rows = tx.all::<(i64, String)>(AssertSqlSafe(sql), values).await?;
    rows.into_iter().map(|(id, ranges)| Candidate::read(id, &ranges)).collect()
}

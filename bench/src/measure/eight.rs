//! Eight nodes in one call, beside the same playbook over eight ControlMaster sessions at once.

use crate::{
    broken::Broken,
    figure::{Figure, Goal, Samples},
    floor::Floor,
    plan::Plan,
    progress::Progress,
    site::Site,
};
use futures_util::future::try_join_all;
use std::time::Duration;

/// `rent_8_ms`.
///
/// # Errors
/// When anything fails.
pub async fn measure(plan: &Plan, site: &Site, floor: &Floor) -> Result<Figure, Broken> {
    let (mut rents, mut floors) = (Samples::default(), Samples::default());
    run_floor(floor).await?;
    rent_and_release(site, floor.workers()).await?;
    let mut progress = Progress::start("rent of 8 nodes", plan.eights);
    for round in 0..plan.eights {
        if round % 2 == 0 {
            floors.push_ms(run_floor(floor).await?);
            rents.push_ms(rent_and_release(site, floor.workers()).await?);
        } else {
            rents.push_ms(rent_and_release(site, floor.workers()).await?);
            floors.push_ms(run_floor(floor).await?);
        }
        progress.step(&format!("rent {:.1} ms, floor {:.1} ms", rents.median(), floors.median()));
    }
    Ok(Figure {
        name: "rent_8_ms",
        unit: "ms",
        samples: rents,
        floor: Some(floors),
        goal: Goal::RatioAtMost(1.5),
        note: "one POST /api/rent; floor: create_user over 8 ControlMaster sessions until the last is done"
            .into(),
    })
}

async fn rent_and_release(site: &Site, count: usize) -> Result<Duration, Broken> {
    site.settle().await?;
    let (rentals, elapsed) = site.api.rent(count, site.tenant_key.public_line()).await?;
    try_join_all(rentals.iter().map(|rental| site.api.release(rental.id))).await?;
    site.settle().await?;
    Ok(elapsed)
}

async fn run_floor(floor: &Floor) -> Result<Duration, Broken> {
    let mut accounts = Vec::new();
    for worker in 0..floor.workers() {
        accounts.push((worker, floor.new_account().await?));
    }
    let elapsed = floor.create_at_once(&accounts).await?;
    try_join_all(accounts.iter().map(|(worker, account)| floor.delete(*worker, account))).await?;
    Ok(elapsed)
}

//! One node: renting it, beside the same playbook over ControlMaster and beside ansible-playbook; and
//! releasing it.

use crate::{
    ansible::Ansible,
    broken::Broken,
    figure::{Figure, Goal, Samples},
    floor::Floor,
    plan::Plan,
    progress::Progress,
    site::Site,
};
use std::time::Duration;

/// Releases after which the worker itself is asked whether the account is gone.
const RELEASES_CHECKED: usize = 8;
/// The worker that ansible works on.
const ANSIBLE_WORKER: usize = 0;

struct Times {
    rent: Samples,
    floor: Samples,
    release: Samples,
    ansible: Samples,
}

/// `rent_warm_ms`, `rent_vs_ansible` and `release_ms`.
///
/// # Errors
/// When anything fails, or an account is left after a release.
pub async fn measure(plan: &Plan, site: &Site, floor: &Floor) -> Result<Vec<Figure>, Broken> {
    let with_ansible = plan.any(&["rent_vs_ansible"]);
    let ansible_every = plan.rents.div_ceil(plan.ansible_runs);
    warm_up(site, floor).await?;
    let ansible =
        if with_ansible { Some(Ansible::prepare(site, floor, ANSIBLE_WORKER).await?) } else { None };
    if let Some(ansible) = &ansible {
        run_ansible(ansible, floor).await?;
    }
    let mut times = Times {
        rent: Samples::default(),
        floor: Samples::default(),
        release: Samples::default(),
        ansible: Samples::default(),
    };
    let mut progress = Progress::start("rent and release of one node", plan.rents);
    for round in 0..plan.rents {
        // Each first in every other round: what one leaves behind is then no advantage of the other.
        let first = round % 2 == 0;
        if first {
            let worker = round / 2 % floor.workers();
            times.floor.push_ms(run_floor(floor, worker).await?);
        }
        site.settle().await?;
        let worker = rent_and_release(site, floor, round, &mut times).await?;
        if !first {
            times.floor.push_ms(run_floor(floor, worker).await?);
        }
        if let Some(ansible) = ansible.as_ref().filter(|_| round % ansible_every == 0) {
            times.ansible.push_ms(run_ansible(ansible, floor).await?);
        }
        progress.step(&format!(
            "rent {:.1} ms, floor {:.1} ms, release {:.1} ms",
            times.rent.median(),
            times.floor.median(),
            times.release.median()
        ));
    }
    site.settle().await?;
    Ok(figures(times, with_ansible))
}

/// Every node is rented once and has run the floor once.
async fn warm_up(site: &Site, floor: &Floor) -> Result<(), Broken> {
    let (rentals, _) = site.api.rent(floor.workers(), site.tenant_key.public_line()).await?;
    for rental in rentals {
        site.api.release(rental.id).await?;
    }
    for worker in 0..floor.workers() {
        run_floor(floor, worker).await?;
    }
    site.settle().await
}

/// One rental and its release; which worker it was.
async fn rent_and_release(
    site: &Site,
    floor: &Floor,
    round: usize,
    times: &mut Times,
) -> Result<usize, Broken> {
    let (rentals, elapsed) = site.api.rent(1, site.tenant_key.public_line()).await?;
    let rental = rentals.first().ok_or_else(|| Broken::new("no rental"))?;
    times.rent.push_ms(elapsed);
    let worker = site.worker(&rental.node_name)?;
    if round < RELEASES_CHECKED {
        worker.sh(&format!("getent passwd {0} && test -s /home/{0}/.ssh/authorized_keys", rental.user));
    }
    times.release.push_ms(site.api.release(rental.id).await?);
    if round < RELEASES_CHECKED {
        let left = worker.try_sh(&format!("getent passwd {0} || test -e /home/{0}", rental.user));
        if left.status.success() {
            return Err(Broken::new(format!(
                "{} is still on {} after its release",
                rental.user,
                worker.name()
            )));
        }
    }
    floor.index_of(worker.name())
}

async fn run_floor(floor: &Floor, worker: usize) -> Result<Duration, Broken> {
    let account = floor.new_account().await?;
    let elapsed = floor.create(worker, &account).await?;
    floor.delete(worker, &account).await?;
    Ok(elapsed)
}

async fn run_ansible(ansible: &Ansible, floor: &Floor) -> Result<Duration, Broken> {
    let account = floor.new_account().await?;
    let elapsed = ansible.create(&account).await?;
    floor.delete(ANSIBLE_WORKER, &account).await?;
    Ok(elapsed)
}

fn figures(times: Times, with_ansible: bool) -> Vec<Figure> {
    let mut figures = vec![Figure {
        name: "rent_warm_ms",
        unit: "ms",
        samples: times.rent.clone(),
        floor: Some(times.floor),
        goal: Goal::RatioAtMost(1.3),
        note: "POST /api/rent until the reply; floor: create_user over ControlMaster on the same nodes"
            .into(),
    }];
    if with_ansible {
        figures.push(Figure {
            name: "rent_vs_ansible",
            unit: "ms",
            samples: times.rent,
            floor: Some(times.ansible),
            goal: Goal::TimesFasterAtLeast(15.0),
            note: "the same rentals; in place of a floor: ansible-playbook, warm, pipelining".into(),
        });
    }
    figures.push(Figure {
        name: "release_ms",
        unit: "ms",
        samples: times.release,
        floor: None,
        goal: Goal::Below(250.0),
        note: "POST /api/release until the reply that the account is gone, which the node had verified"
            .into(),
    });
    figures
}

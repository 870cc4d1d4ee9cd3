//! What every route and every background task costs with years of data, beside an empty system.
//!
//! Two control planes in this process, on two databases of one engine: both with the same users, nodes and live
//! leases, one with millions of events and of leases that are over besides. Each case is done alternately on both.
//! Does not live here: the data (`data`), the requests (`routes`), what the background tasks ask (`tasks`).

pub mod data;
mod routes;
pub mod side;
mod tasks;

use crate::{
    broken::Broken,
    figure::{Figure, Goal, Samples},
    plan::{Plan, YEARS},
    progress::Progress,
};
use futures_util::future::BoxFuture;
use side::{Engine, Side};
use std::time::Duration;

/// Highest ratio to an empty system that meets the goal.
const RATIO_MAX: f64 = 1.2;
/// Difference that counts as none, in milliseconds: less than the clock and the machine's other work
/// make.
const SAME_MS: f64 = 0.1;
/// Rounds before the first one that counts: the caches are warm then.
const WARM_UP: usize = 3;
/// Repetitions, with more samples, of a case that seems to miss its goal: a busy machine is no reason for
/// a miss.
const AGAIN: usize = 2;

/// Does something on one side for the n-th time, and says how long the part took that counts.
type Run = dyn for<'a> Fn(&'a Side, usize) -> BoxFuture<'a, Result<Duration, Broken>>;

/// One thing that is done on both.
pub struct Case {
    name: String,
    run: Box<Run>,
    /// Whether it costs a password hash, beside which few samples say enough.
    is_slow: bool,
}

impl Case {
    fn new(
        name: String,
        run: impl for<'a> Fn(&'a Side, usize) -> BoxFuture<'a, Result<Duration, Broken>> + 'static,
    ) -> Self {
        Self { name, run: Box::new(run), is_slow: false }
    }
}

/// Samples of one case.
struct Measured {
    name: String,
    old: Samples,
    new: Samples,
}

impl Measured {
    fn ratio(&self) -> f64 {
        self.old.median() / self.new.median()
    }

    /// The ratio; 1 where the difference is none.
    fn weight(&self) -> f64 {
        let difference = self.old.median() - self.new.median();
        if difference > SAME_MS { self.ratio() } else { self.ratio().min(1.0) }
    }

    /// Whether the goal is missed.
    fn misses(&self) -> bool {
        self.weight() > RATIO_MAX
    }
}

/// `years_mariadb` and `years_sqlite`: the ratio of the case that is worst.
///
/// # Errors
/// When a database cannot be made, or something answers as it should not.
pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Broken> {
    let mut figures = Vec::new();
    for (name, engine) in YEARS.into_iter().zip([Engine::MariaDb, Engine::Sqlite]) {
        if plan.any(&[name]) {
            figures.push(measure_on(plan, name, engine).await?);
        }
    }
    Ok(figures)
}

async fn measure_on(plan: &Plan, name: &'static str, engine: Engine) -> Result<Figure, Broken> {
    let mut new = Side::start(engine).await?;
    let mut old = Side::start(engine).await?;
    let progress = Progress::start(&format!("{engine}: {} events", plan.years_events), 0);
    data::fill(&old, plan.years_events).await?;
    drop(progress);
    new.live().await?;
    old.live().await?;
    let mut cases = tasks::cases();
    cases.extend(routes::cases());
    let mut progress = Progress::start(&format!("{engine}: routes and tasks"), cases.len());
    let (mut all, mut broken) = (Vec::new(), Vec::new());
    for case in cases {
        match enough(&case, &new, &old, plan.years_rounds).await {
            Ok(measured) => {
                progress.step(&format!("{} {:.2}", measured.name, measured.ratio()));
                all.push(measured);
            }
            // The others say what they say all the same: all that is wrong is told at once.
            Err(error) => broken.push(error.to_string()),
        }
    }
    if !broken.is_empty() {
        return Err(Broken::new(broken.join("\n")));
    }
    all.sort_by(|one, other| other.weight().total_cmp(&one.weight()));
    let worst = all.first().ok_or_else(|| Broken::new("nothing was measured"))?;
    let rows: Vec<String> = all
        .iter()
        .map(|one| {
            let (name, ratio) = (&one.name, one.ratio());
            format!("  {ratio:5.2}  {:9.3} ms  {:9.3} ms  {name}", one.old.median(), one.new.median())
        })
        .collect();
    Ok(Figure {
        name,
        unit: "ms",
        samples: worst.old.clone(),
        floor: Some(worst.new.clone()),
        goal: Goal::RatioAtMost(RATIO_MAX),
        note: format!(
            "the worst of all routes and tasks with {} events and a tenth as many leases that are over; floor: the same \
             without them; less than {SAME_MS} ms is no difference\n{}",
            plan.years_events,
            rows.join("\n")
        ),
    })
}

/// The samples of a case; more of them where it seems to miss.
async fn enough(case: &Case, new: &Side, old: &Side, rounds: usize) -> Result<Measured, Broken> {
    let mut measured = sample(case, new, old, rounds).await?;
    for _ in 0..AGAIN {
        if !measured.misses() {
            break;
        }
        measured = sample(case, new, old, rounds * 2).await?;
    }
    Ok(measured)
}

async fn sample(case: &Case, new: &Side, old: &Side, rounds: usize) -> Result<Measured, Broken> {
    let rounds = if case.is_slow { rounds.div_ceil(4) } else { rounds };
    let mut measured = Measured { name: case.name.clone(), old: Samples::default(), new: Samples::default() };
    for round in 0..rounds + WARM_UP {
        let order = if round % 2 == 0 { [false, true] } else { [true, false] };
        for is_old in order {
            let (side, samples) = if is_old { (old, &mut measured.old) } else { (new, &mut measured.new) };
            let took = (case.run)(side, side.count()).await.map_err(|error| {
                Broken::new(format!("{} {}: {error}", case.name, if is_old { "with years" } else { "empty" }))
            })?;
            if round >= WARM_UP {
                samples.push_ms(took);
            }
        }
    }
    Ok(measured)
}

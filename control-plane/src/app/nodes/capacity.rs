//! What the API shows of a node's capacity and of its container engine.

use orion_domain::{Timestamp, node::Capacity};
use orion_store::GpuRow;
use serde::Serialize;
use utoipa::ToSchema;

/// Capacity of a node for leases.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeCapacity)]
pub struct CapacityView {
    cpus: CoresView,
    /// In MiB.
    memory_mb: AmountView,
    /// Devices that are present.
    gpus: AmountView,
    /// Whether its leases hold more than it has by its last report: then it is not offered.
    shrunk: bool,
    /// The devices; empty where none was reported.
    gpu_devices: Vec<GpuView>,
    #[serde(skip)]
    is_whole: bool,
}

/// Processor cores of a node.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeCores)]
struct CoresView {
    total: f64,
    held: f64,
    free: f64,
}

/// An amount of a node.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeAmount)]
struct AmountView {
    total: i64,
    held: i64,
    free: i64,
}

/// A GPU device of a node.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeGpu)]
struct GpuView {
    uuid: String,
    /// Number of the device on its node.
    number: u32,
    model: String,
    /// Memory of the device in MiB.
    memory_mb: u64,
    /// Whether the node reported it last: one that vanished while it was leased stays until its lease ends.
    present: bool,
    /// Whether a lease has it.
    held: bool,
}

impl AmountView {
    const fn of(total: i64, held: i64) -> Self {
        Self { total, held, free: total - held }
    }
}

impl CapacityView {
    /// Shows what is held by slices; a lease that has the whole node holds all.
    pub fn of(capacity: Capacity, is_whole: bool) -> Self {
        let Capacity { cpu_milli, cpu_held, memory_mb, memory_held_mb, .. } = capacity;
        let (cpu_held, memory_held) =
            if is_whole { (cpu_milli, memory_mb) } else { (cpu_held, memory_held_mb) };
        let cores = |milli: i64| milli as f64 / 1000.0;
        Self {
            cpus: CoresView {
                total: cores(cpu_milli),
                held: cores(cpu_held),
                free: cores(cpu_milli - cpu_held),
            },
            memory_mb: AmountView::of(memory_mb, memory_held),
            gpus: AmountView::of(0, 0),
            shrunk: capacity.is_shrunk(),
            gpu_devices: Vec::new(),
            is_whole,
        }
    }

    /// Sets the GPU devices.
    pub fn set_gpus(&mut self, gpus: &[GpuRow]) {
        let view = |row: &GpuRow| GpuView {
            uuid: row.gpu.uuid.clone(),
            number: row.gpu.number,
            model: row.gpu.model.clone(),
            memory_mb: row.gpu.memory_mb,
            present: row.is_present,
            held: self.is_whole || row.lease.is_some(),
        };
        let devices: Vec<GpuView> = gpus.iter().map(view).collect();
        let count = |is_counted: &dyn Fn(&&GpuView) -> bool| {
            i64::try_from(devices.iter().filter(is_counted).count()).unwrap_or(i64::MAX)
        };
        let total = count(&|gpu| gpu.present);
        self.gpus = AmountView::of(total, count(&|gpu| gpu.present && gpu.held));
        self.gpu_devices = devices;
    }
}

/// Container engine of a node.
#[derive(Serialize, ToSchema)]
#[schema(as = NodeContainers)]
pub struct EngineView {
    /// Whether its engine takes containers.
    offered: bool,
    /// Why it does not; `null` where it does.
    #[schema(required)]
    reason: Option<String>,
    /// Kind, version and API version, as they were last seen; `null` where there is no engine.
    #[schema(required)]
    engine: Option<String>,
}

impl EngineView {
    /// Shows what was last seen of an engine.
    pub fn of(engine: Option<String>, down_since: Option<Timestamp>, disk_full: Option<&String>) -> Self {
        let reason = match (&engine, down_since) {
            (_, Some(since)) => Some(format!("its container engine does not answer since {since}")),
            (None, None) => Some("no container engine (Docker 20.10 or newer) was found on it".to_owned()),
            (Some(_), None) => disk_full.cloned(),
        };
        Self { offered: reason.is_none(), reason, engine }
    }
}

/// Returns a sentence about a node whose leases hold more than it has.
pub fn shrunk_text(capacity: Capacity) -> Option<String> {
    let Capacity { cpu_held, memory_held_mb, cpu_reported, memory_reported_mb, .. } = capacity;
    let cores = |milli: i64| milli as f64 / 1000.0;
    capacity.is_shrunk().then(|| {
        format!(
            "not offered, because it has become smaller than what its leases hold: {} cores and {memory_held_mb} MiB of \
             {} cores and {memory_reported_mb} MiB",
            cores(cpu_held),
            cores(cpu_reported),
        )
    })
}

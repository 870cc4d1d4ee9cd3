//! Use of a container: processor, memory, network.

use super::{Engine, Pace};
use crate::{
    EngineError,
    http::{Call, JsonLines, escaped},
};
use serde::Deserialize;
use std::collections::HashMap;

/// Use of a container at one moment. Counters count from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Processor time of the whole machine in nanoseconds, to compare two moments with.
    pub system_ns: u64,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory in bytes, without what is only cache.
    pub memory_bytes: u64,
    /// Limit of the memory in bytes.
    pub memory_max_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes that it received.
    pub received_bytes: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
}

impl Stats {
    /// Returns whether the container ran at that moment.
    pub const fn is_of_running(&self) -> bool {
        self.system_ns > 0
    }

    /// Returns the thousandths of a core that were used between an earlier moment and this one.
    pub fn cpu_milli_since(&self, earlier: &Self) -> u64 {
        let used = u128::from(self.cpu_ns.saturating_sub(earlier.cpu_ns));
        let passed = u128::from(self.system_ns.saturating_sub(earlier.system_ns));
        let milli = (used * 1000 * u128::from(self.cpus)).checked_div(passed).unwrap_or_default();
        u64::try_from(milli).unwrap_or(u64::MAX)
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    cpu_stats: CpuStats,
    #[serde(default)]
    memory_stats: MemoryStats,
    #[serde(default)]
    pids_stats: PidsStats,
    networks: Option<HashMap<String, Network>>,
}

#[derive(Default, Deserialize)]
struct CpuStats {
    #[serde(default)]
    cpu_usage: CpuUsage,
    #[serde(default)]
    system_cpu_usage: u64,
    #[serde(default)]
    online_cpus: u32,
}

#[derive(Default, Deserialize)]
struct CpuUsage {
    #[serde(default)]
    total_usage: u64,
}

#[derive(Default, Deserialize)]
struct MemoryStats {
    #[serde(default)]
    usage: u64,
    #[serde(default)]
    limit: u64,
    stats: Option<HashMap<String, serde_json::Number>>,
}

#[derive(Default, Deserialize)]
struct PidsStats {
    #[serde(default)]
    current: u64,
}

#[derive(Deserialize)]
struct Network {
    rx_bytes: u64,
    tx_bytes: u64,
}

impl From<Line> for Stats {
    fn from(line: Line) -> Self {
        // As `docker stats` does: version 1 of the cgroups has the first, version 2 the second.
        let of_kernel = line.memory_stats.stats.unwrap_or_default();
        let cache = ["total_inactive_file", "inactive_file"]
            .into_iter()
            .find_map(|name| of_kernel.get(name).and_then(serde_json::Number::as_u64));
        let networks = line.networks.unwrap_or_default();
        Self {
            cpu_ns: line.cpu_stats.cpu_usage.total_usage,
            system_ns: line.cpu_stats.system_cpu_usage,
            cpus: line.cpu_stats.online_cpus,
            memory_bytes: line.memory_stats.usage.saturating_sub(cache.unwrap_or_default()),
            memory_max_bytes: line.memory_stats.limit,
            pids: line.pids_stats.current,
            received_bytes: networks.values().map(|network| network.rx_bytes).sum(),
            sent_bytes: networks.values().map(|network| network.tx_bytes).sum(),
        }
    }
}

/// Use of a container, about once a second.
pub struct StatsStream {
    lines: JsonLines,
}

impl std::fmt::Debug for StatsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatsStream").finish_non_exhaustive()
    }
}

impl StatsStream {
    /// Returns the next moment; none when the container has ended.
    pub async fn next(&mut self) -> Option<Result<Stats, EngineError>> {
        Some(self.lines.next::<Line>().await?.map(Stats::from))
    }
}

impl Engine {
    /// Returns the use of a container now.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where there is none.
    pub async fn stats(&self, id: &str) -> Result<Stats, EngineError> {
        let path = format!("/containers/{}/stats?stream=false&one-shot=true", escaped(id));
        Ok(self.ask::<Line>(Call::get(path, "stats")).await?.into())
    }

    /// Follows the use of a container, on a session of its own.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] where there is none.
    pub async fn follow_stats(&self, id: &str) -> Result<StatsStream, EngineError> {
        let call = Call::get(format!("/containers/{}/stats?stream=true", escaped(id)), "stats");
        Ok(StatsStream { lines: self.json_lines(&call, Pace::Readers).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_core_between_two_moments_is_a_thousand() {
        let at = |cpu_ns, system_ns| Stats { cpu_ns, system_ns, cpus: 2, ..Stats::default() };
        assert_eq!(at(1_500, 4_000).cpu_milli_since(&at(500, 2_000)), 1_000);
        assert_eq!(at(5, 5).cpu_milli_since(&at(5, 5)), 0);
        assert_eq!(at(0, 9).cpu_milli_since(&at(5, 5)), 0);
    }
}

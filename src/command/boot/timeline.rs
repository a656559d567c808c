//! How long each step of a boot took.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// The steps of a boot with their durations, in the order they happened.
#[derive(Debug, Serialize)]
pub struct Timeline {
    #[serde(skip)]
    last: Instant,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    #[serde(rename = "milliseconds", serialize_with = "milliseconds")]
    took: Duration,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 10_000.0).round() / 10.0)
}

impl Timeline {
    /// Starts the clock of the first step.
    pub fn start() -> Self {
        Self { last: Instant::now(), steps: Vec::new() }
    }

    /// Ends the step `name`; the next one begins.
    pub fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        self.steps.push(Step { name, took: now - self.last });
        self.last = now;
    }

    /// One line for the console: `modules 120 ms, root 35 ms, …`.
    pub fn summary(&self) -> String {
        let steps: Vec<_> =
            self.steps.iter().map(|step| format!("{} {} ms", step.name, step.took.as_millis())).collect();
        let total: Duration = self.steps.iter().map(|step| step.took).sum();
        format!("{}; {} ms in all", steps.join(", "), total.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_kept_in_order() {
        let mut timeline = Timeline::start();
        timeline.done("modules");
        timeline.done("root");
        let json = serde_json::to_value(&timeline).unwrap();
        assert_eq!(json["steps"][1]["name"], "root");
        assert!(json["steps"][0]["milliseconds"].is_number());
        assert!(timeline.summary().starts_with("modules "));
    }
}

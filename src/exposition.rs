//! Metrics in Prometheus' text exposition format 0.0.4, gathered when they are asked for.
//!
//! Counters are plain numbers where things happen; here they get their names, by Prometheus' conventions: base units,
//! `_total` for counters, labels with few values.
use prometheus::{
    TextEncoder,
    core::Collector as _,
    process_collector::ProcessCollector,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use std::fmt;

/// The content type of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of one moment.
#[derive(Default)]
pub(crate) struct Exposition {
    families: Vec<MetricFamily>,
}

/// A value with its labels.
pub(crate) struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Sample {
    /// A value without labels.
    pub(crate) fn new(value: impl Number) -> Self {
        Self { labels: Vec::new(), value: value.number() }
    }

    /// Adds a label.
    pub(crate) fn with(mut self, label: &'static str, value: impl fmt::Display) -> Self {
        self.labels.push((label, value.to_string()));
        self
    }
}

/// A number as Prometheus has it: a double, exact up to 2^53.
pub(crate) trait Number {
    /// As a double.
    fn number(self) -> f64;
}
impl Number for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}
impl Number for usize {
    fn number(self) -> f64 {
        self as f64
    }
}
impl Number for u32 {
    fn number(self) -> f64 {
        self.into()
    }
}
impl Number for bool {
    fn number(self) -> f64 {
        self.into()
    }
}
impl Number for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Exposition {
    /// Adds a counter; its name ends in `_total`.
    pub(crate) fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(MetricType::COUNTER, ours(name), help, samples, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    /// Adds a gauge.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(MetricType::GAUGE, ours(name), help, samples, set_gauge);
    }

    /// Adds the kernel's numbers of this process (time, memory, descriptors). The start time is ours: the kernel's is relative
    /// to the boot time, which a sandboxed service may not be able to read.
    pub(crate) fn process(&mut self, started_at_s: u64) {
        const START: &str = "process_start_time_seconds";
        self.families.extend(
            ProcessCollector::for_self().collect().into_iter().filter(|family| family.name() != START),
        );
        let help = "Start time of the process since unix epoch in seconds.";
        self.family(MetricType::GAUGE, START.into(), help, [Sample::new(started_at_s)], set_gauge);
    }

    fn family(
        &mut self,
        kind: MetricType,
        name: String,
        help: &str,
        samples: impl IntoIterator<Item = Sample>,
        set: impl Fn(&mut Metric, f64),
    ) {
        let metrics: Vec<Metric> = samples
            .into_iter()
            .map(|sample| {
                let labels = sample.labels.into_iter().map(|(name, value)| {
                    let mut label = LabelPair::default();
                    label.set_name(name.into());
                    label.set_value(value);
                    label
                });
                let mut metric = Metric::from_label(labels.collect());
                set(&mut metric, sample.value);
                metric
            })
            .collect();
        // A family needs a value.
        if !metrics.is_empty() {
            let mut family = MetricFamily::default();
            family.set_name(name);
            family.set_help(help.into());
            family.set_field_type(kind);
            family.set_metric(metrics);
            self.families.push(family);
        }
    }

    /// Writes the text format.
    pub(crate) fn text(&self) -> String {
        // Fails only for a family without a name or a value, and there is none.
        TextEncoder::new().encode_to_string(&self.families).unwrap_or_default()
    }
}

fn ours(name: &str) -> String {
    format!("cvdmirror_{name}")
}

fn set_gauge(metric: &mut Metric, value: f64) {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_help_its_type_and_its_values() {
        let mut metrics = Exposition::default();
        metrics.counter(
            "things_total",
            "Things.",
            [Sample::new(7_u64).with("kind", "a\"b\\c\nd"), Sample::new(1_795_381_080_u64).with("kind", 2)],
        );
        metrics.gauge("none", "Nothing.", []);
        metrics.gauge("share", "A part.", [Sample::new(0.5)]);
        assert_eq!(
            metrics.text(),
            "# HELP cvdmirror_things_total Things.\n# TYPE cvdmirror_things_total counter\n\
             cvdmirror_things_total{kind=\"a\\\"b\\\\c\\nd\"} 7\ncvdmirror_things_total{kind=\"2\"} 1795381080\n\
             # HELP cvdmirror_share A part.\n# TYPE cvdmirror_share gauge\ncvdmirror_share 0.5\n"
        );
    }

    #[test]
    fn the_process_is_measured() {
        let mut metrics = Exposition::default();
        metrics.process(1_795_381_080);
        let text = metrics.text();
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            assert!(text.contains(&format!("\n{name} ")), "no {name} in {text}");
        }
        assert_eq!(text.matches("\nprocess_start_time_seconds ").count(), 1, "{text}");
        assert!(text.ends_with("\nprocess_start_time_seconds 1795381080\n"), "{text}");
    }
}

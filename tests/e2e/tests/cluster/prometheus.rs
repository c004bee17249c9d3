//! A real Prometheus beside the cluster, and what the dashboards ask of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Who is asked for metrics: the job's name, where, and the label `node`.
pub(crate) type Job<'a> = (&'a str, String, Option<&'a str>);

/// A Prometheus, until this is dropped.
pub(crate) struct Prometheus {
    child: Child,
    address: String,
    begun: f64,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of a panel.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Seconds since the epoch, and values that are numbers.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A panel of a dashboard, and what it shows.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) unit: String,
    /// Column, row, width and height in the grid of 24 columns.
    pub(crate) place: [f64; 4],
    /// Of each query.
    pub(crate) shown: Vec<Vec<Series>>,
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// What follows a text in a program's output, to the end of its line; the rest
/// of the output is read and left.
pub(crate) fn said(out: impl Read + Send + 'static, before: &'static str) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once(before) {
                let _ = sender.send(rest.to_owned());
            }
        }
    });
    receiver.recv_timeout(super::HANG).expect(before)
}

impl Prometheus {
    /// Starts one that asks each job every second.
    pub(crate) fn start(jobs: &[Job<'_>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scrape = jobs.iter().map(|(name, address, node)| {
            let labels = node.map_or(json!({}), |node| json!({ "node": node }));
            json!({ "job_name": name, "honor_labels": true,
                "static_configs": [{ "targets": [address], "labels": labels }] })
        });
        let config = json!({ "global": { "scrape_interval": "1s" },
            "scrape_configs": scrape.collect::<Vec<_>>() });
        let file = dir.path().join("prometheus.yml");
        // JSON is YAML too.
        std::fs::write(&file, config.to_string()).unwrap();
        let begun = now();
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`apt install prometheus`");
        let address = said(
            child.stderr.take().unwrap(),
            "msg=\"Listening on\" address=",
        );
        Self {
            child,
            address,
            begun,
            _dir: dir,
        }
    }

    /// Asks a query over all the time there was.
    fn range(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (start, end) = (self.begun, now());
        let path = format!("/api/v1/query_range?query={encoded}&start={start}&end={end}&step=1");
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(body["status"], "success", "{query}: {answer}");
        body["data"]["result"].as_array().unwrap().clone()
    }

    /// Everything a dashboard of `deploy/grafana` shows now.
    pub(crate) fn dashboard(&self, name: &str) -> Vec<Panel> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana");
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: Vec<_> = variables
            .iter()
            .map(|own| format!("${}", own["name"].as_str().unwrap()))
            .collect();
        let panels = dashboard["panels"].as_array().unwrap().iter();
        panels.map(|panel| self.panel(panel, &variables)).collect()
    }

    fn panel(&self, panel: &Value, variables: &[String]) -> Panel {
        let shown = panel["targets"].as_array().unwrap().iter().map(|target| {
            let mut query = target["expr"].as_str().unwrap().to_owned();
            // As if everything were chosen.
            for variable in variables {
                query = query.replace(variable, ".*");
            }
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let found = self.range(&query);
            found.iter().map(|found| series(found, legend)).collect()
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_f64().unwrap());
        Panel {
            title: text(&panel["title"]),
            unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
            place,
            shown: shown.collect(),
        }
    }
}

fn series(found: &Value, legend: &str) -> Series {
    let mut name = legend.to_owned();
    let labels = found["metric"].as_object().unwrap();
    for (label, value) in labels {
        name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap());
    }
    let points = found["values"].as_array().unwrap().iter();
    let points = points.filter_map(|point| {
        let value: f64 = point[1].as_str()?.parse().ok()?;
        value.is_finite().then_some((point[0].as_f64()?, value))
    });
    Series {
        name,
        points: points.collect(),
    }
}

/// The queries that show nothing.
pub(crate) fn empty(panels: &[Panel]) -> Vec<String> {
    let queries = panels.iter().flat_map(|panel| {
        let numbered = panel.shown.iter().enumerate();
        numbered.map(move |(number, series)| (panel, number, series))
    });
    let nothing = queries.filter(|(_, _, all)| all.iter().all(|series| series.points.is_empty()));
    let names = nothing.map(|(panel, number, _)| format!("{} ({})", panel.title, number + 1));
    names.collect()
}

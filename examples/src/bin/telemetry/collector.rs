//! A collector that receives OTLP, as protobuf over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use lakebase_examples::Result;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{NumberDataPoint, metric, number_data_point};
use prost::Message;
use tokio::net::TcpListener;

pub(crate) type Attributes = BTreeMap<String, String>;

/// The received metrics and spans.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) instruments: BTreeMap<String, Instrument>,
    pub(crate) spans: Vec<Span>,
    /// The bodies of all requests.
    pub(crate) bytes: Vec<u8>,
}

/// The newest values of an instrument.
#[derive(Default)]
pub(crate) struct Instrument {
    pub(crate) kind: &'static str,
    pub(crate) unit: String,
    pub(crate) series: BTreeMap<Attributes, Reading>,
}

#[derive(Clone, Copy)]
pub(crate) enum Reading {
    Number(f64),
    Histogram { count: u64, sum: f64 },
}

pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) id: Vec<u8>,
    /// Empty without one.
    pub(crate) parent: Vec<u8>,
    pub(crate) nanos: u64,
    pub(crate) attributes: BTreeSet<String>,
}

#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Received>>);

impl Collector {
    /// Listens on loopback, and returns its URL as well.
    pub(crate) async fn start() -> Result<(Self, String)> {
        let collector = Self::default();
        let router = Router::new()
            .route("/v1/metrics", post(take_metrics))
            .route("/v1/traces", post(take_spans))
            .with_state(collector.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((collector, url))
    }

    pub(crate) fn received(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take_metrics(State(collector): State<Collector>, body: Bytes) -> impl IntoResponse {
    let request =
        ExportMetricsServiceRequest::decode(body.clone()).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut received = collector.received();
    received.bytes.extend_from_slice(&body);
    let resources = request.resource_metrics.into_iter();
    let scopes = resources.flat_map(|resource| resource.scope_metrics);
    for metric in scopes.flat_map(|scope| scope.metrics) {
        let (kind, series) = read(metric.data);
        let instrument = received.instruments.entry(metric.name).or_default();
        instrument.kind = kind;
        instrument.unit = metric.unit;
        instrument.series.extend(series);
    }
    Ok::<_, StatusCode>(protobuf(ExportMetricsServiceResponse::default()))
}

async fn take_spans(State(collector): State<Collector>, body: Bytes) -> impl IntoResponse {
    let request =
        ExportTraceServiceRequest::decode(body.clone()).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut received = collector.received();
    received.bytes.extend_from_slice(&body);
    let resources = request.resource_spans.into_iter();
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    for span in scopes.flat_map(|scope| scope.spans) {
        received.spans.push(Span {
            name: span.name,
            id: span.span_id,
            parent: span.parent_span_id,
            nanos: span
                .end_time_unix_nano
                .saturating_sub(span.start_time_unix_nano),
            attributes: span.attributes.into_iter().map(|each| each.key).collect(),
        });
    }
    Ok::<_, StatusCode>(protobuf(ExportTraceServiceResponse::default()))
}

fn protobuf(message: impl Message) -> impl IntoResponse {
    let content_type = [(CONTENT_TYPE, "application/x-protobuf")];
    (content_type, message.encode_to_vec())
}

fn read(data: Option<metric::Data>) -> (&'static str, Vec<(Attributes, Reading)>) {
    let numbers = |points: Vec<NumberDataPoint>| {
        let points = points.into_iter().map(|point| {
            let value = match point.value {
                Some(number_data_point::Value::AsInt(value)) => value as f64,
                Some(number_data_point::Value::AsDouble(value)) => value,
                None => 0.0,
            };
            (attributes(point.attributes), Reading::Number(value))
        });
        points.collect()
    };
    match data {
        Some(metric::Data::Gauge(gauge)) => ("gauge", numbers(gauge.data_points)),
        Some(metric::Data::Sum(sum)) if sum.is_monotonic => ("counter", numbers(sum.data_points)),
        Some(metric::Data::Sum(sum)) => ("up-down counter", numbers(sum.data_points)),
        Some(metric::Data::Histogram(histogram)) => {
            let points = histogram.data_points.into_iter().map(|point| {
                let (count, sum) = (point.count, point.sum.unwrap_or_default());
                let reading = Reading::Histogram { count, sum };
                (attributes(point.attributes), reading)
            });
            ("histogram", points.collect())
        }
        _ => ("unknown", Vec::new()),
    }
}

fn attributes(of: Vec<KeyValue>) -> Attributes {
    let text = |value| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    of.into_iter()
        .map(|each| (each.key, text(each.value.and_then(|value| value.value))))
        .collect()
}

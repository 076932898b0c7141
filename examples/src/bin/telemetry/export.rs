//! OpenTelemetry's pipeline: metrics and spans, over OTLP.

use lakebase_examples::Result;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) struct Export {
    meters: SdkMeterProvider,
    tracers: SdkTracerProvider,
}

impl Export {
    /// Sends to a collector at this URL.
    pub(crate) fn start(collector: &str) -> Result<Self> {
        // The exporters' HTTP client has no crypto provider.
        let provider = rustls::crypto::ring::default_provider();
        provider.install_default().map_err(|_| "there is one")?;
        let metrics_url = format!("{collector}/v1/metrics");
        let traces_url = format!("{collector}/v1/traces");

        let metrics = MetricExporter::builder()
            .with_http()
            .with_endpoint(metrics_url)
            .build()?;
        let meters = SdkMeterProvider::builder()
            .with_periodic_exporter(metrics)
            .build();
        opentelemetry::global::set_meter_provider(meters.clone());

        let spans = SpanExporter::builder()
            .with_http()
            .with_endpoint(traces_url)
            .build()?;
        let tracers = SdkTracerProvider::builder()
            .with_batch_exporter(spans)
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(tracers.tracer("lakebase"));
        // Switches off the attributes that the layer adds.
        let layer = layer
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let of_lakebase = Targets::new().with_target("lakebase", LevelFilter::DEBUG);
        tracing_subscriber::registry()
            .with(of_lakebase)
            .with(layer)
            .init();
        Ok(Self { meters, tracers })
    }

    /// Exports the rest.
    pub(crate) async fn end(self) -> Result<()> {
        // Blocks until the collector responds.
        let ended = tokio::task::spawn_blocking(move || {
            self.meters.shutdown().and(self.tracers.shutdown())
        });
        Ok(ended.await??)
    }
}

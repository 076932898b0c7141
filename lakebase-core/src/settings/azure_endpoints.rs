//! Addresses of a Microsoft cloud.

/// Addresses of a Microsoft cloud, for [`ConfigBuilder::azure_endpoints`](crate::config::ConfigBuilder::azure_endpoints):
/// of a cloud that the crate does not know, or of fakes in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AzureEndpoints {
    /// Entra ID, for example `https://login.microsoftonline.com/`.
    pub login: String,
    /// Azure Resource Manager, for example `https://management.azure.com/`.
    pub resource_manager: String,
    /// The service-management API, for example `https://management.core.windows.net/`.
    pub service_management: String,
    /// The instance metadata service, `http://169.254.169.254/`.
    pub instance_metadata: String,
}

impl AzureEndpoints {
    /// Addresses of a cloud. The instance metadata service has the same address in every cloud; set
    /// [`instance_metadata`](Self::instance_metadata) for a fake.
    pub fn new(
        login: impl Into<String>,
        resource_manager: impl Into<String>,
        service_management: impl Into<String>,
    ) -> Self {
        Self {
            login: login.into(),
            resource_manager: resource_manager.into(),
            service_management: service_management.into(),
            instance_metadata: "http://169.254.169.254/".to_owned(),
        }
    }
}

//! Addresses of a Microsoft cloud.

/// Addresses of a Microsoft cloud, for other than the known ones, or for stand-ins in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureEndpoints {
    /// Where tokens of Entra ID are issued, for example `https://login.microsoftonline.com/`.
    pub login: String,
    /// Azure Resource Manager, for example `https://management.azure.com/`.
    pub resource_manager: String,
    /// The service-management API, for example `https://management.core.windows.net/`.
    pub service_management: String,
    /// The instance metadata service, `http://169.254.169.254/`.
    pub instance_metadata: String,
}

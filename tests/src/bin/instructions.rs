//! Reads the cached credential, with the number of reads as argument. `ci/instructions.sh` counts the instructions.

use lakebase_tests::lakebase_without_workspace;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reads: u32 = std::env::args().nth(1).unwrap_or_default().parse()?;
    let lakebase = lakebase_without_workspace();
    for _ in 0..reads {
        lakebase.credential().await?;
    }
    Ok(())
}

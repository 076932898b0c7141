// The official Node driver, unchanged: new connections for the given seconds. Prints the milliseconds of each.
import { createLakebasePool } from "@databricks/lakebase";

const pool = createLakebasePool({ max: 1 });
async function login() {
    const began = performance.now();
    const client = await pool.connect();
    const took = performance.now() - began;
    // Close it, so that the next one is new.
    client.release(true);
    return took;
}

await login();
const end = performance.now() + Number(process.argv[2]) * 1000;
while (performance.now() < end) console.log(await login());
await pool.end();
process.exit(0);

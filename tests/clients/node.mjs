// The official Node driver, unchanged: connects, queries, rotates.
import { createLakebasePool } from "@databricks/lakebase";

const pool = createLakebasePool({ max: 2 });
const seen = new Set();
for (let round = 0; round < 3; round++) {
    const { rows } = await pool.query("SELECT current_user AS me, pg_backend_pid() AS pid");
    if (rows[0].me !== process.env.PGUSER) throw new Error(`logged in as ${rows[0].me}`);
    seen.add(rows[0].pid);
    // The driver renews two minutes before expiry, so with such short tokens every connection mints.
    await pool.query("SELECT pg_terminate_backend(pg_backend_pid())").catch(() => {});
}
if (seen.size !== 3) throw new Error(`expected three connections, saw ${seen.size}`);
await pool.end();
console.log("node: ok");
process.exit(0);

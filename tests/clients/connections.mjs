// pg behind the auth proxy: new connections for the given seconds.
import pg from "pg";

const end = performance.now() + Number(process.argv[2]) * 1000;
// Each connection serves one caller.
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2, maxUses: 1 });
let connections = 0;

async function check(client) {
    const { rows } = await client.query("SELECT session_user AS me, $1::int AS number", [connections]);
    const [{ me, number }] = rows;
    if (me !== process.env.EXPECTED_USER || number !== connections) throw new Error(JSON.stringify(rows));
    connections += 1;
}

while (performance.now() < end) {
    // By the variables, by the URL, and through a pool.
    for (const client of [new pg.Client(), new pg.Client({ connectionString: process.env.DATABASE_URL })]) {
        await client.connect();
        await check(client);
        await client.end();
    }
    const client = await pool.connect();
    await client.query("BEGIN");
    await check(client);
    await client.query("COMMIT");
    client.release();
}
await pool.end();
console.log(connections);

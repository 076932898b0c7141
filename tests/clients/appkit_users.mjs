// AppKit's pools of users without its server. Each line of the input is {"requests": [headers, ...], "times"}: each
// request runs this number of queries, all at the same time. A line "ANSWER ..." of the output has the rows of each query.
import { createInterface } from "node:readline";
import { createApp, lakebase } from "@databricks/appkit";
import { WorkspaceClient } from "@databricks/sdk-experimental";

const { DATABRICKS_HOST: host, DATABRICKS_TOKEN: token } = process.env;
// Otherwise AppKit asks the workspace for its id.
process.env.DATABRICKS_WORKSPACE_ID ||= "1";
// Otherwise the application's own client drops the port of the host.
const client = new WorkspaceClient({ host, token, authType: "pat" });
const pool = { workspaceClient: client };
const app = await createApp({ client, plugins: [lakebase({ pool })], disableInternalTelemetry: true });

async function answer({ requests, times }) {
    const queries = requests.flatMap((headers) => {
        const request = { header: (name) => headers[name] };
        const query = () => app.lakebase.asUser(request).query("SELECT text FROM notes");
        return Array.from({ length: times }, query);
    });
    const results = await Promise.allSettled(queries);
    const failed = results.filter(({ status }) => status === "rejected");
    if (failed.length > 0) return { error: `${failed.length} failed: ${failed[0].reason}` };
    return { rows: results.map(({ value }) => value.rows.map(({ text }) => text)) };
}

for await (const line of createInterface({ input: process.stdin })) {
    // asUser itself can throw.
    const answered = await answer(JSON.parse(line)).catch((error) => ({ error: String(error) }));
    console.log(`ANSWER ${JSON.stringify(answered)}`);
}
process.exit(0);

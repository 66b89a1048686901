// The official client for TypeScript, before an endpoint of two servers: what it
// sees, a line for each. It takes the folder of packages, the endpoint's URL and a
// token.
const [modules, url, token, file] = process.argv.slice(2);
const sdk = (path) => import(`${modules}/@modelcontextprotocol/sdk/dist/esm/${path}`);
const { Client } = await sdk("client/index.js");
const { StreamableHTTPClientTransport } = await sdk("client/streamableHttp.js");
const { ElicitRequestSchema } = await sdk("types.js");

const client = new Client({ name: "typescript", version: "1" }, { capabilities: { elicitation: {} } });
client.setRequestHandler(ElicitRequestSchema, (r) => {
  console.log("asked", r.params.message.split(":")[0]);
  return { action: "decline" };
});
await client.connect(
  new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: { Authorization: `Bearer ${token}` } } }),
);
const { tools } = await client.listTools();
for (const name of ["every__echo", "files__read_text_file", "exhibit__whoami"]) {
  console.log(name, tools.some((t) => t.name === name));
}
const say = async (name, args) => {
  const r = await client.callTool({ name, arguments: args });
  console.log(name, r.isError === true, JSON.stringify(r.content[0].text));
};
await say("every__echo", { message: "hi" });
await say("files__read_text_file", { path: file });
const { resources } = await client.listResources();
const { contents } = await client.readResource({ uri: resources[0].uri });
console.log("read", contents[0].uri === resources[0].uri, contents[0].uri.split("+")[0]);
const { prompts } = await client.listPrompts();
const prompt = await client.getPrompt({ name: prompts[0].name, arguments: {} });
console.log("prompt", prompts[0].name.split("__")[0], prompt.messages.length > 0);
const links = await client.callTool({ name: "every__get-resource-links", arguments: { count: 1 } });
for (const c of links.content.filter((c) => c.type === "resource_link")) {
  console.log("link", c.uri.split("+")[0], (await client.readResource({ uri: c.uri })).contents.length);
}
await client.callTool({ name: "every__trigger-elicitation-request", arguments: {} });
let progress = 0;
await client.callTool({ name: "every__trigger-long-running-operation", arguments: { duration: 1, steps: 2 } }, undefined, {
  onprogress: () => progress++,
});
console.log("progress", progress > 0);
await client.close();

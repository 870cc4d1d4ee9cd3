// A client of the API as its types are generated: it does not compile when the document lacks something that it
// uses, and `cargo xtask ci` runs it against a real `orion up`.
//
// usage: node smoke.js http://127.0.0.1:8080
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Node = components["schemas"]["Node"];
type Problem = components["schemas"]["Problem"];

const baseUrl = process.argv[2];
assert(baseUrl, "the API's address is missing");
const anyone = createClient<paths>({ baseUrl });
const credentials = { username: `smoke${Date.now()}`, password: "correct horse battery" };

// The same key, the same reply: an account is made once.
for (const _ of [1, 2]) {
  const signedUp = await anyone.POST("/auth/signup", {
    params: { header: { "Idempotency-Key": credentials.username } },
    body: credentials,
  });
  assert.equal(signedUp.response.status, 201);
  assert.equal(signedUp.data?.message, "Account created");
}

const wrong = await anyone.POST("/auth/login", { body: { ...credentials, password: "another one" } });
const refused: Problem | undefined = wrong.error;
assert.equal(refused?.status, 401);
assert.equal(refused?.kind, "unauthorized");

const loggedIn = await anyone.POST("/auth/login", { body: credentials });
assert(loggedIn.data, "logged in");
const user = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${loggedIn.data.token}` } });

const account = await user.GET("/auth/me");
assert.equal(account.data?.username, credentials.username);
assert.equal(account.data?.role, "user");

const nodes = await user.GET("/api/nodes", { params: { query: { limit: 10 } } });
const offered: Node[] = nodes.data?.filter((node) => node.offerable && node.status === "alive") ?? [];
assert.equal(offered.length, 0, "no worker runs here");

const rented = await user.POST("/api/rent", {
  params: { header: { "Idempotency-Key": `${credentials.username}-rent` } },
  body: { duration_hours: 0.5, count: 2, on_node_loss: "wait" },
});
assert.equal(rented.data, undefined);
assert.equal(rented.response.status, 503);
assert.equal(rented.response.headers.get("content-type"), "application/problem+json");
assert.equal(rented.error?.kind, "too_few_free");
assert.equal(rented.error?.found, 0);

const missing = await user.GET("/api/rentals/{id}", { params: { path: { id: "4711" } } });
assert.equal(missing.error?.status, 404);

const rentals = await user.GET("/api/rentals", { params: { query: { all: true } } });
assert.deepEqual(rentals.data, []);

const health = await anyone.GET("/api/health");
const report = health.data ?? health.error;
assert(report && "parts" in report, "a report, well or not");
assert.equal(report.parts.database.status, "up");

assert.equal((await user.POST("/api/auth/logout")).response.status, 200);
assert.equal((await user.GET("/auth/me")).error?.kind, "unauthorized");
console.log(`the generated client works with ${baseUrl}`);

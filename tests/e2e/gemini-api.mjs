// A mock of the Gemini API on loopback, so that the real Gemini CLI can be driven without an account:
// GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:PORT
//
// Usage:  gemini-api.mjs PORT LOGFILE PROJECT
//
// The log has one JSON line per request of a conversation (`said` = every text of the user in it, in
// order, `results` = how many tool results) and one per end of an answer. A directive in the last
// prompt chooses the answer, the last one wins: "go [[slow:10]]". Without one, after a tool result and
// for side calls (no tools) the answer is short.
//
//   slow:SECONDS   streamed text       ask   a shell command that asks
//   limit          the daily quota, which names no time
//   act            the shell command `sh act.sh` in its folder
//   full           the conversation is too long
import { appendFileSync } from 'node:fs';
import http from 'node:http';

const [port, logFile, project] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const log = (line) => appendFileSync(logFile, `${JSON.stringify({ t: Date.now(), ...line })}\n`);
const KIND = 'type.googleapis.com/google.rpc.';
let requests = 0;

/** An answer of the shape that a side call asks for. */
const shaped = ({ properties = {} }) => JSON.stringify(Object.fromEntries(Object.entries(properties).map(([key, { type, enum: allowed }]) =>
  [key, allowed?.[0] ?? { number: 1, integer: 1, boolean: false, array: [] }[`${type}`.toLowerCase()] ?? 'x'])));

http.createServer(async (req, res) => {
  const parts = [];
  for await (const part of req) parts.push(part);
  const id = ++requests;
  const json = (status, object) => res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(object));
  if (req.method !== 'POST') return json(404, {});
  if (/countTokens/.test(req.url)) return json(200, { totalTokens: 1234 });

  const { contents = [], tools = [], generationConfig = {} } = JSON.parse(Buffer.concat(parts));
  const blocks = contents.filter(({ role }) => role === 'user').map((content) => content.parts ?? []);
  const results = blocks.flat().filter((part) => part.functionResponse).length;
  const after = (blocks.at(-1) ?? []).some((part) => part.functionResponse);
  const said = blocks.flat().flatMap((part) => part.text ?? []);
  const side = !tools.some((tool) => tool.functionDeclarations?.length);
  if (!side) log({ id, model: req.url.match(/models\/([^:]+)/)?.[1] ?? '', said, results });
  res.on('close', () => side || log({ end: id, whole: res.writableFinished }));

  const candidate = (given, finishReason) => ({ candidates: [{ content: { role: 'model', parts: given }, index: 0, ...(finishReason ? { finishReason } : {}) }],
    usageMetadata: { promptTokenCount: 2000, candidatesTokenCount: 50, totalTokenCount: 2050 }, modelVersion: 'mock', responseId: `r${id}` });
  if (!/stream/i.test(req.url)) {
    const shape = generationConfig.responseSchema ?? generationConfig.responseJsonSchema;
    return json(200, candidate([{ text: shape ? shaped(shape) : 'Mock answer' }], 'STOP'));
  }
  const commands = [...(said.at(-1) ?? '').matchAll(/\[\[([a-z]+)(?::([^\]]*))?\]\]/g)];
  const [, kind, arg] = (!side && !after && commands.at(-1)) || [];
  if (kind === 'limit') {
    return json(429, { error: { code: 429, status: 'RESOURCE_EXHAUSTED', message: 'You exceeded your current quota, please check your plan and billing details.', details: [
      { '@type': `${KIND}QuotaFailure`, violations: [{ quotaMetric: 'generativelanguage.googleapis.com/generate_content_free_tier_requests', quotaId: 'GenerateRequestsPerDayPerProjectPerModel-FreeTier', quotaValue: '250' }] },
      { '@type': `${KIND}RetryInfo`, retryDelay: '7200s' },
    ] } });
  }
  if (kind === 'full') return json(400, { error: { code: 400, message: 'The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).', status: 'INVALID_ARGUMENT', details: [] } });
  res.writeHead(200, { 'content-type': 'text/event-stream' });
  const send = (given, reason) => res.destroyed || res.write(`data: ${JSON.stringify(candidate(given, reason))}\r\n\r\n`);
  const command = { ask: `touch ${project}/asked.txt`, act: 'sh act.sh' }[kind];
  if (command) send([{ functionCall: { name: 'run_shell_command', args: { command, description: 'Does its part' } } }]);
  for (let i = 0; kind === 'slow' && i < Number(arg) && !res.destroyed; i++) {
    send([{ text: `line ${i} of the slow answer.\n\n` }]);
    await sleep(1000);
  }
  if (!command) send([{ text: `Mock answer #${id}, nothing is left.` }]);
  send([{ text: '' }], 'STOP');
  res.destroyed || res.end();
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));

// A mock of the OpenAI Responses API on loopback, so that the real Codex can be driven without an
// account. Base URL: http://127.0.0.1:PORT/v1
//
// Usage:  codex-api.mjs PORT LOGFILE PROJECT
//
// The log has one JSON line per request of a conversation (`said` = every text of the user in it, in
// order, `results` = how many tool results) and one per end of an answer. A directive in the last
// prompt chooses the answer, the last one wins: "go [[slow:10]]". Without one, after a tool result and
// for the request that asks for a title the answer is short.
//
//   slow:SECONDS   streamed text       ask   a command that asks to leave the sandbox
//   limit:SECONDS  a 5-hour limit that ends so many seconds later
//   act            the command `sh act.sh` in its folder
//   full           the conversation is too long
import { appendFileSync } from 'node:fs';
import http from 'node:http';

const [port, logFile, project] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const log = (line) => appendFileSync(logFile, `${JSON.stringify({ t: Date.now(), ...line })}\n`);
const textOf = ({ content }) => (typeof content === 'string' ? content : (content ?? []).map((part) => part.text ?? '').join('\n'));
let requests = 0;

http.createServer(async (req, res) => {
  const parts = [];
  for await (const part of req) parts.push(part);
  const id = ++requests;
  const json = (status, object, headers = {}) => res.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(object));
  if (req.method !== 'POST') return json(200, { object: 'list', data: [], models: [] });

  const { model, input, tools = [] } = JSON.parse(Buffer.concat(parts));
  const users = input.filter(({ role }) => role === 'user').map(textOf);
  const results = input.filter(({ type }) => /_output$/.test(type ?? '')).length;
  const after = /_output$/.test(input.at(-1).type ?? '');
  const side = /^Generate a concise, single-line task title/.test(users.at(-1));
  if (!side) log({ id, model, said: users, results });
  res.on('close', () => side || log({ end: id, whole: res.writableFinished }));

  const commands = [...(users.at(-1) ?? '').matchAll(/\[\[([a-z]+)(?::([^\]]*))?\]\]/g)];
  const [, kind, arg] = (!side && !after && commands.at(-1)) || [];
  if (kind === 'limit') {
    const resets = Math.floor(Date.now() / 1000) + Number(arg);
    return json(429, { error: { type: 'usage_limit_reached', message: 'The usage limit has been reached', plan_type: 'plus', resets_at: resets } }, {
      'x-codex-primary-used-percent': '100', 'x-codex-primary-window-minutes': '300', 'x-codex-primary-reset-at': `${resets}`,
    });
  }
  if (kind === 'full') return json(400, { error: { type: 'invalid_request_error', code: 'context_length_exceeded', message: 'Your input exceeds the context window of this model.' } });
  res.writeHead(200, { 'content-type': 'text/event-stream' });
  const event = (type, fields) => res.destroyed || res.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
  const end = () => {
    event('response.completed', { response: { id: `resp_${id}`, object: 'response', status: 'completed', output: [], usage: {
      input_tokens: 2000, input_tokens_details: { cached_tokens: 0 }, output_tokens: 50, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 2050 } } });
    res.destroyed || res.end();
  };
  event('response.created', { response: { id: `resp_${id}`, object: 'response', status: 'in_progress' } });
  if (kind === 'ask' || kind === 'act') {
    const wanted = kind === 'act' ? { cmd: 'sh act.sh' }
      : { cmd: `touch ${project}/asked.txt`, sandbox_permissions: 'require_escalated', justification: 'May it write a file?' };
    // some models have one tool that runs JavaScript instead
    const direct = tools.some(({ name }) => name === 'exec_command');
    const call = direct ? { type: 'function_call', name: 'exec_command', arguments: JSON.stringify(wanted) }
      : { type: 'custom_tool_call', name: 'exec', status: 'completed', input: `text(JSON.stringify(await tools.exec_command(${JSON.stringify(wanted)})));` };
    event('response.output_item.done', { output_index: 0, item: { id: `call_item_${id}`, call_id: `call_${id}`, ...call } });
    return end();
  }
  const item = { type: 'message', id: `msg_${id}`, role: 'assistant' };
  let text = '';
  const say = (piece) => {
    text += piece;
    event('response.output_text.delta', { item_id: item.id, output_index: 0, content_index: 0, delta: piece });
  };
  event('response.output_item.added', { output_index: 0, item: { ...item, content: [] } });
  for (let i = 0; kind === 'slow' && i < Number(arg) && !res.destroyed; i++) {
    say(`line ${i} of the slow answer.\n\n`);
    await sleep(1000);
  }
  say(side ? 'Mock title' : `Mock answer #${id}, nothing is left.`);
  event('response.output_item.done', { output_index: 0, item: { ...item, content: [{ type: 'output_text', text }] } });
  end();
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));

// Asks a server everything through the official client, and prints what came as one JSON object.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { BASE_URL: baseURL, API_KEY: apiKey, MODEL: model, IMAGE: image } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const found = {};

const url = `data:image/jpeg;base64,${readFileSync(image).toString("base64")}`;
const shown = {
  role: "user",
  content: [
    { type: "image_url", image_url: { url } },
    { type: "text", text: "How do I draw the moon?" },
  ],
};

const whole = await client.chat.completions.create({ model, messages: [shown], logprobs: true, top_logprobs: 2 });
found.content = whole.choices[0].message.content;
found.logprob = whole.choices[0].logprobs.content[0].logprob;
found.score = whole.visionward.score;
found.usage = whole.usage;

const answer = { role: "assistant", content: "That is the place of the moon." };
const judged = await client.chat.completions.create({ model, messages: [shown, answer] });
found.role = judged.visionward.role;

const stream = await client.chat.completions.create({
  model,
  messages: [shown],
  stream: true,
  stream_options: { include_usage: true },
});
found.streamed = "";
for await (const chunk of stream) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
  found.streamedUsage = chunk.usage ?? found.streamedUsage;
}

const moderation = await client.moderations.create({ model: "omni-moderation-latest", input: shown.content });
found.flagged = moderation.results[0].flagged;
found.types = moderation.results[0].category_applied_input_types.illicit;

found.models = [];
for await (const one of client.models.list()) {
  found.models.push(one.id);
}

const attempts = {
  wrongKey: () => new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list(),
  unknownModel: () => client.chat.completions.create({ model: "gpt", messages: [shown] }),
  badBody: () => client.chat.completions.create({ model, messages: [] }),
  tooLarge: () => client.chat.completions.create({ model, messages: [{ role: "user", content: "x".repeat(2 ** 21) }] }),
};
found.errors = {};
for (const [name, attempt] of Object.entries(attempts)) {
  try {
    await attempt();
    found.errors[name] = "no error";
  } catch (error) {
    found.errors[name] = { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

console.log(JSON.stringify(found));

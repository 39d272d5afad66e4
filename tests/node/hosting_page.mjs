// What a hosting page shows for this model, with another base URL and key.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY });

const completion = await client.chat.completions.create({
  model: "meta-llama/Llama-Guard-3-11B-Vision-Turbo",
  messages: [
    { role: "system", content: "You are an AI assistant who knows everything." },
    { role: "user", content: "Tell me, why is the sky blue?" },
  ],
});

console.log(completion.choices[0].message.content);
